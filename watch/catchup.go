package watch

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/scan"
)

// join waits until the hub is live and places the cursor at the end of its log. The log will
// contain every change after base.
func (s *sub) join() (base position, err error) {
	for {
		b := s.hub.wake.Load()
		base, ok, err := s.hub.attach(&s.cur)
		if err != nil {
			return position{}, err
		}
		if ok {
			was := s.at.history
			if was != base.history {
				s.at = base.at(0)
			}
			if was != 0 && was != base.history {
				return base, errOtherHistory
			}
			return base, nil
		}
		select {
		case <-b.rung:
		case <-s.ctx.Done():
			return position{}, s.ctx.Err()
		}
	}
}

// catchUp joins the log and delivers what the consumer is missing. A state watch lists if must is
// set or if listing is cheaper; otherwise catchUp reads history. kind is the kind of the listed
// batches.
func (s *sub) catchUp(kind Kind, must bool) error {
	s.follows(false)
	other := false // the consumer's state belongs to another history
	for {
		base, err := s.join()
		switch {
		case err != nil:
		case must || other:
			err = s.list(kind, base, other)
		case s.at.reaches(base):
			return nil
		case s.index != nil && listTime(int64(len(s.index.keys))) < replayTime(base.rev-s.at.rev):
			err = s.list(kind, base, false)
		default:
			err = s.replay(base)
		}
		gone, compacted := errors.AsType[*compaction](err)
		switch {
		case compacted && s.index == nil:
			return &CompactedError{After: s.at.rev, Oldest: gone.oldest}
		case compacted, errors.Is(err, errNoProgress):
			must = true
		case !errors.Is(err, errOtherHistory):
			return err
		case s.index == nil:
			return ErrHistoryRewritten
		default:
			other = true
		}
	}
}

// cross moves the consumer across a gap in the log.
func (s *sub) cross(g *gap) error {
	if g.why != rewritten {
		s.move(g.from)
		if s.at.reaches(g.to) {
			return nil
		}
	}
	s.follows(false)
	var err error
	switch {
	case g.why == rewritten && s.at.history >= g.to.history:
		return nil // joined the log after the gap
	case g.why == rewritten && s.index == nil:
		return ErrHistoryRewritten
	case g.why == compacted && s.index == nil && g.oldest > s.at.next():
		return &CompactedError{After: s.at.rev, Oldest: g.oldest}
	case s.index == nil:
		return s.catchUp(Resync, false)
	case g.why == rewritten:
		s.at = g.to.at(0)
		err = s.list(Resync, g.to, true)
	default:
		err = s.list(Resync, g.to, false)
	}
	if errors.Is(err, errOtherHistory) {
		return s.catchUp(Resync, true)
	}
	return err
}

// beginAfter starts an events watch at WithAfter.
func (s *sub) beginAfter() error {
	base, err := s.join() // first, so that the hub reports a rewritten history from here on
	if err == nil && s.req.after > base.rev {
		err = s.insist(s.reached)
	}
	if err != nil {
		return err
	}
	s.move(s.at.at(s.req.after))
	return s.catchUp(Resync, false)
}

// reached returns an error unless the cluster has reached the revision of WithAfter.
func (s *sub) reached() error {
	hdr, err := s.core.now(s.ctx, s.req.sel.String(), s.req.span.From)
	if err == nil && hdr.GetRevision() < s.req.after {
		err = s.ahead(hdr.GetRevision())
	}
	return err
}

// ahead returns the error for a WithAfter that is ahead of the cluster. now is the cluster's
// revision, or 0 if unknown.
func (s *sub) ahead(now int64) error {
	if now == 0 {
		return fmt.Errorf("%w: revision %d is ahead of the cluster's", ErrHistoryRewritten, s.req.after)
	}
	return fmt.Errorf("%w: revision %d is ahead of the cluster's, which is %d", ErrHistoryRewritten, s.req.after, now)
}

// beginKnowing starts a state watch whose consumer already knows the state at the revision of
// WithAfter. It reads the keys of that revision from history. If that history was compacted or
// rewritten, the consumer gets the whole state.
func (s *sub) beginKnowing() error {
	whole := false
	if s.req.after > 0 {
		if _, err := s.join(); err != nil { // first, as in beginAfter
			return err
		}
		err := s.insist(s.recall)
		switch {
		case errors.Is(err, errs.Compacted), errors.Is(err, errOtherHistory):
			whole = true
			s.index = newIndex()
		case err != nil:
			return err
		default:
			s.move(s.at.at(s.req.after))
		}
	}
	return s.catchUp(Resync, whole)
}

// recall fills the index with the keys that existed at the revision of WithAfter.
func (s *sub) recall() error {
	s.index = newIndex()
	sc := scan.New(s.reader(), s.policy, s.req.span.lists, scan.Options{Rev: s.req.after, KeysOnly: true})
	for kvs, err := range sc.Chunks(s.ctx) {
		if errors.Is(err, rpctypes.ErrFutureRev) {
			return s.ahead(0)
		}
		if err != nil {
			return err
		}
		for _, kv := range kvs {
			s.index.keys[string(kv.GetKey()[len(s.req.span.ns):])] = known{rev: kv.GetModRevision()}
		}
	}
	return nil
}

// insist calls f until it succeeds or returns an error that a retry cannot fix. It waits between
// calls.
func (s *sub) insist(f func() error) error {
	waits := reopening()
	defer s.core.outages.ended(s)
	for failures := 1; ; failures++ {
		err := f()
		if err == nil {
			s.core.outages.succeeded(s)
			return nil
		}
		switch {
		case fromConsumer(err), errors.Is(err, errs.Permission), errors.Is(err, errs.Compacted),
			errors.Is(err, ErrHistoryRewritten), errors.Is(err, errs.Closed), errors.Is(err, errOtherHistory):
			return err
		case s.over() != nil:
			return s.over()
		}
		s.core.outages.failed(s, s.req.sel.String(), failures, err)
		s.core.log.DebugContext(s.ctx, "watch reads again", "selector", s.req.sel.String(), "error", err)
		if !sleep(s.ctx, waits.NextBackOff()) {
			return s.ctx.Err()
		}
	}
}
