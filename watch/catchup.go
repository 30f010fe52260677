package watch

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/scan"
)

// join waits until the hub is live, and takes a place at the end of its log: everything after base will be there.
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

// catchUp takes a place in the log and brings the consumer there: by a list (which must says, or which is the cheaper
// way for a state watch), else by reading history. kind is that of a list.
func (s *sub) catchUp(kind Kind, must bool) error {
	s.follows(false)
	other := false // the consumer's state is of another history
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

// cross goes over a gap in the log.
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
		return nil // has joined behind it
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

// beginAfter starts an events watch in the past.
func (s *sub) beginAfter() error {
	base, err := s.join() // first: if history is rewritten from here on, the hub tells
	if err == nil && s.req.after > base.rev {
		err = s.insist(s.reached)
	}
	if err != nil {
		return err
	}
	s.move(s.at.at(s.req.after))
	return s.catchUp(Resync, false)
}

// reached makes sure that the cluster has got to WithAfter.
func (s *sub) reached() error {
	hdr, err := s.core.now(s.ctx, s.req.sel.String(), s.req.span.From)
	if err == nil && hdr.GetRevision() < s.req.after {
		err = s.ahead(hdr.GetRevision())
	}
	return err
}

// ahead is the error of a WithAfter that the cluster has not reached.
func (s *sub) ahead(now int64) error {
	if now == 0 {
		return fmt.Errorf("%w: revision %d is ahead of the cluster's", ErrHistoryRewritten, s.req.after)
	}
	return fmt.Errorf("%w: revision %d is ahead of the cluster's, which is %d", ErrHistoryRewritten, s.req.after, now)
}

// beginKnowing starts a state watch for a consumer that knows the state as of a revision: which keys it knows is read from
// history. Where that is gone, or begins anew meanwhile, the consumer gets the whole state.
func (s *sub) beginKnowing() error {
	whole := false
	if s.req.after > 0 {
		if _, err := s.join(); err != nil { // first, for the reason above
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

// recall fills the index with the keys as of WithAfter.
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

// insist calls f until it succeeds, or says that trying again is of no use.
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
