package watch

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/notify"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// subscriber is one watch: a consumer and its position in a broadcaster's log. It runs on the
// consumer's goroutine.
type subscriber struct {
	core    *core
	request *request
	handler func(Batch) error

	// The following fields are used by the running goroutine only.
	callerCtx         context.Context //nolint:containedctx // the consumer's context
	ctx               context.Context //nolint:containedctx // ends with the core or with caller
	wg                sync.WaitGroup  // goroutines of the watch itself
	broadcaster       *broadcaster
	cursor            cursor
	index             *index    // nil for an events watch
	pos               position  // every change up to here was delivered and handled
	lastBatch         position  // of the last batch
	delivered         bool      // a batch that is not Progress
	progressDue       time.Time // of a Progress batch
	progressRequested time.Time // when progress was last requested for a Progress batch

	sharedBroadcaster atomic.Pointer[broadcaster] // broadcaster, for other goroutines; nil at first
	// the watch is at the end of the broadcaster's log and shares its state
	following atomic.Bool
	// with following: everything in the log was handled
	drained atomic.Bool
	// every change made by then was handled; nil if unknown
	completeAt atomic.Pointer[time.Time]
	// when it last stopped following, in Unix nanoseconds
	syncingSince atomic.Int64
	doneRevision atomic.Int64 // the revision of pos
	// number of waiters for doneRevision or completeAt to advance
	waiters atomic.Int64
	// holds one: a caller waits, so the broadcaster must be checked
	checkNeeded chan struct{}
	// notified when doneRevision or completeAt has advanced, if there are waiters
	advanced  *notify.Broadcast
	catchUps  atomic.Uint64 // number of times that it had to catch up
	ready     chan struct{} // closed when it is following for the first time
	readyOnce sync.Once
}

func newSubscriber(c *core, r *request, out func(Batch) error) *subscriber {
	s := &subscriber{core: c, request: r, handler: out, ready: make(chan struct{}), checkNeeded: make(chan struct{}, 1), advanced: notify.NewBroadcast()}
	s.cursor.limit, s.cursor.coalescing = int64(r.buffer), r.coalesce
	s.cursor.indexSize.Store(-1)
	s.syncingSince.Store(time.Now().UnixNano())
	if r.snapshot {
		s.index = newIndex()
		s.cursor.indexSize.Store(0)
	}
	return s
}

// run watches until ctx ends, the consumer returns an error, or the watch cannot continue. It
// always returns an error.
func (s *subscriber) run(ctx context.Context) error {
	defer s.core.unregister(s)
	own, stop := context.WithCancel(s.core.ctx)
	unlink := context.AfterFunc(ctx, stop)
	defer s.wg.Wait()
	defer stop()
	defer unlink()
	s.callerCtx, s.ctx = ctx, own
	err := s.watch()
	switch {
	case fromConsumer(err):
		return err
	case ctx.Err() != nil:
		return retry.ContextError(ctx)
	case s.core.ctx.Err() != nil:
		return errClosed
	}
	return err
}

// canceled returns an error if the watch is no longer wanted.
func (s *subscriber) canceled() error {
	if err := s.callerCtx.Err(); err != nil {
		return err
	}
	return s.ctx.Err()
}

func (s *subscriber) watch() error {
	if err := s.canceled(); err != nil {
		return err
	}
	b, err := s.core.acquire(s.request)
	if err != nil {
		return err
	}
	defer s.core.release(b)
	defer b.detach(&s.cursor)
	s.broadcaster = b
	s.sharedBroadcaster.Store(b)
	if err := s.start(); err != nil {
		return err
	}
	for {
		if err := s.canceled(); err != nil {
			return err
		}
		if err := s.step(); err != nil {
			return err
		}
	}
}

// start brings the consumer to the end of the broadcaster's log.
func (s *subscriber) start() error {
	var err error
	switch {
	case s.request.afterSet && s.request.snapshot:
		err = s.startStateAfter()
	case s.request.afterSet:
		err = s.startAfter()
	case s.request.snapshot:
		err = s.catchUp(Snapshot, true)
	default:
		var base position
		if base, err = s.join(); err == nil {
			s.advance(base)
		}
	}
	if err == nil && s.request.progressInterval > 0 && !s.request.snapshot {
		err = s.deliver(Batch{Kind: Progress, Revision: s.pos.rev})
	}
	return err
}

// step delivers the next entry of the log, or waits for it.
func (s *subscriber) step() error {
	s.drained.Store(false)
	// In this order: every change made by completeAt is in the log, which contains everything up
	// to logEnd, and later entries notify.
	completeAt := s.broadcaster.completeAt.Load()
	changed, logEnd := s.broadcaster.changed.Wait(), s.broadcaster.position()
	entry, coalesced, lost := s.cursor.next(s.pos)
	switch {
	case entry != nil && entry.gap != nil:
		return s.crossGap(entry.gap)
	case entry != nil:
		if s.pos.reaches(entry.pos) {
			return nil
		}
		return s.deliver(Batch{Kind: Live, Revision: entry.pos.rev, Events: entry.events})
	case coalesced != nil:
		if s.pos.reaches(coalesced.pos) {
			return nil
		}
		return s.deliverCoalesced(coalesced)
	case lost:
		s.advance(s.cursor.completeTo)
		return s.catchUp(Resync, false)
	}
	if err := s.broadcaster.finalError(); err != nil {
		return err
	}
	s.advance(logEnd)
	s.setFollowing(true)
	newer := s.completeAt.Swap(completeAt) != completeAt
	s.drained.Store(true)
	if newer && s.waiters.Load() > 0 {
		s.advanced.Notify()
	}
	return s.wait(changed)
}

// minProgressInterval is the minimum interval at which a watch with [WithProgress] requests
// progress.
const minProgressInterval = time.Second

// wait waits at the end of the log.
func (s *subscriber) wait(changed <-chan struct{}) error {
	var due <-chan time.Time
	if s.request.progressInterval > 0 {
		wait := time.Until(s.progressDue)
		if wait <= 0 {
			if !s.lastBatch.reaches(s.pos) {
				return s.deliver(Batch{Kind: Progress, Revision: s.pos.rev})
			}
			s.broadcaster.waiters.Add(1) // the broadcaster then notifies when its position advances
			defer s.broadcaster.waiters.Add(-1)
			if wait = max(s.request.progressInterval, minProgressInterval) - time.Since(s.progressRequested); wait <= 0 {
				s.progressRequested = time.Now()
				notify.Token(s.broadcaster.progressNeeded)
				wait = max(s.request.progressInterval, minProgressInterval)
			}
		}
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-changed:
	case <-s.checkNeeded:
	case <-due:
	case <-s.ctx.Done():
	}
	return nil
}

// deliver delivers one batch to the consumer.
func (s *subscriber) deliver(b Batch) error {
	if s.index != nil {
		s.index.apply(b.Events)
		s.cursor.indexSize.Store(int64(len(s.index.keys)))
	}
	if s.request.filtersLocally() {
		if b.Events = s.filter(b.Events); len(b.Events) == 0 && b.Kind == Live {
			s.advance(s.pos.atRevision(b.Revision))
			return nil
		}
	}
	s.core.counters.batches.Add(1)
	s.core.counters.events.Add(uint64(len(b.Events)))
	if b.Folded > 0 {
		s.core.counters.folded.Add(uint64(b.Folded))
	}
	if err := s.handler(b); err != nil {
		return &consumerError{err}
	}
	s.lastBatch = s.pos.atRevision(b.Revision)
	s.delivered = s.delivered || b.Kind != Progress
	if s.request.progressInterval > 0 {
		s.progressDue = time.Now().Add(s.request.progressInterval)
	}
	if !b.More {
		s.advance(s.pos.atRevision(b.Revision))
	}
	return nil
}

// deliverCoalesced delivers coalesced changes. If the watch has an index, deliverCoalesced omits
// deletes of keys that the consumer does not know.
func (s *subscriber) deliverCoalesced(f *coalescer) error {
	b := f.batch(s.pos)
	if s.index == nil {
		return s.deliver(b)
	}
	all := len(b.Events)
	b.Events = slices.DeleteFunc(b.Events, func(e Event) bool {
		_, known := s.index.keys[e.Key]
		return e.Type == Delete && !known
	})
	b.Folded += all - len(b.Events)
	return s.deliver(b)
}

// filter returns the events that the consumer wants.
func (s *subscriber) filter(events []Event) []Event {
	out := make([]Event, 0, len(events))
	for i := range events {
		if s.request.wants(&events[i]) {
			out = append(out, events[i])
		}
	}
	return out
}

// advance records that every change up to a position was delivered and handled.
func (s *subscriber) advance(to position) {
	s.pos = s.pos.advance(to)
	if s.doneRevision.Swap(s.pos.rev) != s.pos.rev && s.waiters.Load() > 0 {
		s.advanced.Notify()
	}
}

// setFollowing records whether the watch is at the end of the broadcaster's log, so that it shares
// the broadcaster's state.
func (s *subscriber) setFollowing(yes bool) {
	switch {
	case yes && !s.following.Load():
		s.following.Store(true)
		s.readyOnce.Do(func() { close(s.ready) })
	case !yes && s.following.Swap(false):
		s.syncingSince.Store(time.Now().UnixNano())
		s.catchUps.Add(1)
	}
}

// status returns the status of the watch.
func (s *subscriber) status() Status {
	out := Status{State: StateSyncing, Since: time.Unix(0, s.syncingSince.Load())}
	var completeAt *time.Time
	if b := s.sharedBroadcaster.Load(); b != nil {
		completeAt = b.completeAt.Load() // read before checking whether there is more to handle
		of := b.status()
		out.Reopened = of.Reopened
		if s.following.Load() {
			out = of
		}
	}
	if !s.drained.Load() || !s.cursor.caughtUp() {
		completeAt = s.completeAt.Load()
	}
	out.Heard = time.Time{}
	if completeAt != nil {
		out.Heard = *completeAt
	}
	out.Reopened += s.catchUps.Load()
	out.Revision = s.doneRevision.Load()
	return out
}

// requestCheck makes the watch check its broadcaster, and the broadcaster request progress. Until
// done is called, the broadcaster notifies when its position advances.
func (s *subscriber) requestCheck() (done func()) {
	b := s.sharedBroadcaster.Load()
	if b == nil {
		return func() {}
	}
	b.waiters.Add(1) // first: what the broadcaster received before, the watch checks itself
	notify.Token(s.checkNeeded)
	notify.Token(b.progressNeeded)
	return func() { b.waiters.Add(-1) }
}
