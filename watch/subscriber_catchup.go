package watch

import (
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scan"
	"github.com/etcdkit/etcdkit/internal/watchstream"
)

// join waits until the broadcaster is live and places the cursor at the end of its log. The log
// will contain every change after base.
func (s *subscriber) join() (base position, err error) {
	for {
		changed := s.broadcaster.changed.Wait()
		base, ok, err := s.broadcaster.attach(&s.cursor)
		if err != nil {
			return position{}, err
		}
		if ok {
			was := s.pos.history
			if was != base.history {
				s.pos = base.atRevision(0)
			}
			if was != 0 && was != base.history {
				return base, errHistoryChanged
			}
			return base, nil
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
			return position{}, s.ctx.Err()
		}
	}
}

// catchUp joins the log and delivers what the consumer is missing. A state watch lists if mustList
// is set or if listing is cheaper; otherwise catchUp reads history. kind is the kind of the listed
// batches.
func (s *subscriber) catchUp(kind Kind, mustList bool) error {
	s.setFollowing(false)
	historyChanged := false // the consumer's state belongs to another history
	for {
		base, err := s.join()
		switch {
		case err != nil:
		case mustList || historyChanged:
			err = s.list(kind, base, historyChanged)
		case s.pos.reaches(base):
			return nil
		case s.index != nil && estimateListTime(int64(len(s.index.keys))) < estimateReplayTime(base.rev-s.pos.rev):
			err = s.list(kind, base, false)
		default:
			err = s.replay(base)
		}
		compacted, isCompacted := errors.AsType[*watchstream.CompactionError](err)
		switch {
		case isCompacted && s.index == nil:
			return &CompactedError{After: s.pos.rev, Oldest: compacted.Oldest}
		case isCompacted, errors.Is(err, errReplayStalled):
			mustList = true
		case !errors.Is(err, errHistoryChanged):
			return err
		case s.index == nil:
			return ErrHistoryRewritten
		default:
			historyChanged = true
		}
	}
}

// crossGap moves the consumer across a gap in the log.
func (s *subscriber) crossGap(g *gap) error {
	if g.cause != gapRewritten {
		s.advance(g.from)
		if s.pos.reaches(g.to) {
			return nil
		}
	}
	s.setFollowing(false)
	var err error
	switch {
	case g.cause == gapRewritten && s.pos.history >= g.to.history:
		return nil // joined the log after the gap
	case g.cause == gapRewritten && s.index == nil:
		return ErrHistoryRewritten
	case g.cause == gapCompacted && s.index == nil && g.oldest > s.pos.nextRevision():
		return &CompactedError{After: s.pos.rev, Oldest: g.oldest}
	case s.index == nil:
		return s.catchUp(Resync, false)
	case g.cause == gapRewritten:
		s.pos = g.to.atRevision(0)
		err = s.list(Resync, g.to, true)
	default:
		err = s.list(Resync, g.to, false)
	}
	if errors.Is(err, errHistoryChanged) {
		return s.catchUp(Resync, true)
	}
	return err
}

// startAfter starts an events watch after the revision of WithAfter. If that revision is ahead of
// the cluster, it returns ErrHistoryRewritten.
func (s *subscriber) startAfter() error {
	base, err := s.join() // first, so that the broadcaster reports a rewritten history from here on
	if err == nil && s.request.after > base.rev {
		err = s.retry(s.checkRevisionReached)
	}
	if err != nil {
		return err
	}
	s.advance(s.pos.atRevision(s.request.after))
	return s.catchUp(Resync, false)
}

// checkRevisionReached returns an error unless the cluster has reached the revision of WithAfter.
func (s *subscriber) checkRevisionReached() error {
	hdr, err := s.core.readHeader(s.ctx, s.request.selector.String(), s.request.span.From)
	if err == nil && hdr.GetRevision() < s.request.after {
		err = s.aheadError(hdr.GetRevision())
	}
	return err
}

// aheadError returns the error for a WithAfter that is ahead of the cluster. now is the cluster's
// revision, or 0 if unknown.
func (s *subscriber) aheadError(now int64) error {
	if now == 0 {
		return fmt.Errorf("%w: revision %d is ahead of the cluster's", ErrHistoryRewritten, s.request.after)
	}
	return fmt.Errorf("%w: revision %d is ahead of the cluster's, which is %d", ErrHistoryRewritten, s.request.after, now)
}

// startStateAfter starts a state watch whose consumer already knows the state at the revision of
// WithAfter, which is empty at revision 0. It reads the keys of that revision from history. The
// consumer gets the whole state if the revision was compacted, if the history is rewritten
// meanwhile, or if a list is cheaper than the changes since. If the revision is ahead of the
// cluster, startStateAfter returns ErrHistoryRewritten.
func (s *subscriber) startStateAfter() error {
	mustList := false
	if s.request.after > 0 {
		if _, err := s.join(); err != nil { // first, as in startAfter
			return err
		}
		err := s.retry(s.loadIndex)
		switch {
		case errors.Is(err, errs.Compacted), errors.Is(err, errHistoryChanged):
			mustList = true
			s.index = newIndex()
		case err != nil:
			return err
		default:
			s.advance(s.pos.atRevision(s.request.after))
		}
	}
	return s.catchUp(Resync, mustList)
}

// loadIndex fills the index with the keys that existed at the revision of WithAfter.
func (s *subscriber) loadIndex() error {
	s.index = newIndex()
	sc := scan.New(s.reader(), s.withRetries, s.request.span.listRanges, scan.Options{Rev: s.request.after, KeysOnly: true})
	for kvs, err := range sc.Chunks(s.ctx) {
		if errors.Is(err, rpctypes.ErrFutureRev) {
			return s.aheadError(0)
		}
		if err != nil {
			return err
		}
		for _, kv := range kvs {
			s.index.keys[string(kv.GetKey()[len(s.request.span.ns):])] = indexedKey{rev: kv.GetModRevision()}
		}
	}
	return nil
}

// retry calls f until it succeeds or returns an error that a retry cannot fix. It waits between
// calls.
func (s *subscriber) retry(f func() error) error {
	backoff := newBackoff()
	defer s.core.outages.ended(s)
	for failures := 1; ; failures++ {
		err := f()
		if err == nil {
			s.core.outages.succeeded(s)
			return nil
		}
		switch {
		case fromConsumer(err), errors.Is(err, errs.Permission), errors.Is(err, errs.Compacted),
			errors.Is(err, ErrHistoryRewritten), errors.Is(err, errs.Closed), errors.Is(err, errHistoryChanged):
			return err
		case s.canceled() != nil:
			return s.canceled()
		}
		s.core.outages.failed(s, s.request.selector.String(), failures, err)
		s.core.log.DebugContext(s.ctx, "watch reads history again", "selector", s.request.selector.String(), "error", err)
		if retry.Sleep(s.ctx, backoff.NextBackOff()) != nil {
			return s.ctx.Err()
		}
	}
}

// Estimated costs of the two ways to catch up. A list takes a round trip and some microseconds a
// key. History is delivered every 100 ms, up to a thousand revisions each time.
const (
	listBaseTime         = time.Millisecond
	listKeyTime          = 3 * time.Microsecond
	replayInterval       = 100 * time.Millisecond
	replayBatchRevisions = 1000
)

func estimateListTime(keys int64) time.Duration {
	return listBaseTime + time.Duration(keys)*listKeyTime
}

func estimateReplayTime(revisions int64) time.Duration {
	return time.Duration((revisions+replayBatchRevisions-1)/replayBatchRevisions) * replayInterval
}
