package watch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// sub is one watch: a consumer and its position in a hub's log. It runs on the consumer's
// goroutine.
type sub struct {
	core *core
	req  *request
	out  func(Batch) error

	// The following fields are used by the running goroutine only.
	caller context.Context //nolint:containedctx // the consumer's context
	ctx    context.Context //nolint:containedctx // ends with the core or with caller
	wg     sync.WaitGroup  // goroutines of the watch itself
	hub    *hub
	cur    cursor
	index  *index    // nil for an events watch
	at     position  // every change up to here was delivered and handled
	told   position  // of the last batch
	due    time.Time // of a Progress batch
	asked  time.Time // when progress was last requested for a Progress batch

	shared atomic.Pointer[hub]       // hub, for other goroutines; nil at first
	follow atomic.Bool               // the watch is at the end of the hub's log and shares its state
	quiet  atomic.Bool               // with follow: everything in the log was handled
	whole  atomic.Pointer[time.Time] // every change made by then was handled; nil if unknown
	since  atomic.Int64              // when it last stopped following, in Unix nanoseconds
	done   atomic.Int64              // the revision of at
	waits  atomic.Int64              // number of waiters for done or whole to advance
	nudge  chan struct{}             // holds one: a caller waits, so the hub must be checked
	moved  atomic.Pointer[bell]
	again  atomic.Uint64 // number of times that it had to catch up
	ready  chan struct{} // closed when it follows for the first time
	once   sync.Once
}

func newSub(c *core, r *request, out func(Batch) error) *sub {
	s := &sub{core: c, req: r, out: out, ready: make(chan struct{}), nudge: make(chan struct{}, 1)}
	s.cur.limit, s.cur.coalesce = int64(r.buffer), r.coalesce
	s.cur.keys.Store(-1)
	s.since.Store(time.Now().UnixNano())
	s.moved.Store(newBell())
	if r.snapshot {
		s.index = newIndex()
		s.cur.keys.Store(0)
	}
	return s
}

// consumerError is an error returned by the consumer, as opposed to one of the watch.
type consumerError struct{ err error }

func (e *consumerError) Error() string { return e.err.Error() }

// Unwrap returns the consumer's error.
func (e *consumerError) Unwrap() error { return e.err }

func fromConsumer(err error) bool {
	_, ok := errors.AsType[*consumerError](err)
	return ok
}

// run watches until ctx ends, the consumer returns an error, or the watch cannot continue. It
// always returns an error.
func (s *sub) run(ctx context.Context) error {
	defer s.core.end(s)
	own, stop := context.WithCancel(s.core.ctx)
	unlink := context.AfterFunc(ctx, stop)
	defer s.wg.Wait()
	defer stop()
	defer unlink()
	s.caller, s.ctx = ctx, own
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

// over returns an error if the watch is no longer wanted.
func (s *sub) over() error {
	if err := s.caller.Err(); err != nil {
		return err
	}
	return s.ctx.Err()
}

func (s *sub) watch() error {
	if err := s.over(); err != nil {
		return err
	}
	h, err := s.core.acquire(s.req)
	if err != nil {
		return err
	}
	defer s.core.release(h)
	defer h.detach(&s.cur)
	s.hub = h
	s.shared.Store(h)
	if err := s.begin(); err != nil {
		return err
	}
	for {
		if err := s.over(); err != nil {
			return err
		}
		if err := s.step(); err != nil {
			return err
		}
	}
}

// begin brings the consumer to the end of the hub's log.
func (s *sub) begin() error {
	var err error
	switch {
	case s.req.afterSet && s.req.snapshot:
		err = s.beginKnowing()
	case s.req.afterSet:
		err = s.beginAfter()
	case s.req.snapshot:
		err = s.catchUp(Snapshot, true)
	default:
		var base position
		if base, err = s.join(); err == nil {
			s.move(base)
		}
	}
	if err == nil && s.req.every > 0 && !s.req.snapshot {
		err = s.give(Batch{Kind: Progress, Revision: s.at.rev})
	}
	return err
}

// step delivers the next entry of the log, or waits for it.
func (s *sub) step() error {
	s.quiet.Store(false)
	// In this order: every change made by whole is in the log, which contains everything up to
	// reached, and later entries ring the bell.
	whole := s.hub.whole.Load()
	bell, reached := s.hub.wake.Load(), s.hub.at()
	n, f, lost := s.cur.take()
	switch {
	case n != nil && n.gap != nil:
		return s.cross(n.gap)
	case n != nil:
		if s.at.reaches(n.at) {
			return nil
		}
		return s.give(Batch{Kind: Live, Revision: n.at.rev, Events: n.events})
	case f != nil:
		if s.at.reaches(f.at) {
			return nil
		}
		return s.giveFold(f)
	case lost:
		s.move(s.cur.passed)
		return s.catchUp(Resync, false)
	}
	if err := s.hub.failure(); err != nil {
		return err
	}
	s.move(reached)
	s.follows(true)
	news := s.whole.Swap(whole) != whole
	s.quiet.Store(true)
	if news && s.waits.Load() > 0 {
		s.wakeWaiting()
	}
	return s.idle(bell)
}

// minProgressInterval is the minimum interval at which a watch with [WithProgress] requests
// progress.
const minProgressInterval = time.Second

// idle waits at the end of the log.
func (s *sub) idle(b *bell) error {
	var due <-chan time.Time
	if s.req.every > 0 {
		wait := time.Until(s.due)
		if wait <= 0 {
			if !s.told.reaches(s.at) {
				return s.give(Batch{Kind: Progress, Revision: s.at.rev})
			}
			s.hub.waits.Add(1) // the hub then rings when its position advances
			defer s.hub.waits.Add(-1)
			if wait = max(s.req.every, minProgressInterval) - time.Since(s.asked); wait <= 0 {
				s.asked = time.Now()
				notify(s.hub.asked)
				wait = max(s.req.every, minProgressInterval)
			}
		}
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-b.rung:
	case <-s.nudge:
	case <-due:
	case <-s.ctx.Done():
	}
	return nil
}

// give delivers one batch to the consumer.
func (s *sub) give(b Batch) error {
	if s.index != nil {
		s.index.apply(b.Events)
		s.cur.keys.Store(int64(len(s.index.keys)))
	}
	if s.req.filters() {
		if b.Events = s.wanted(b.Events); len(b.Events) == 0 && b.Kind == Live {
			s.move(s.at.at(b.Revision))
			return nil
		}
	}
	s.core.counts.batches.Add(1)
	s.core.counts.events.Add(uint64(len(b.Events)))
	if b.Folded > 0 {
		s.core.counts.folded.Add(uint64(b.Folded))
	}
	if err := s.out(b); err != nil {
		return &consumerError{err}
	}
	s.told = s.at.at(b.Revision)
	if s.req.every > 0 {
		s.due = time.Now().Add(s.req.every)
	}
	if !b.More {
		s.move(s.at.at(b.Revision))
	}
	return nil
}

// giveFold delivers coalesced changes. If the watch has an index, giveFold omits deletes of keys
// that the consumer does not know.
func (s *sub) giveFold(f *fold) error {
	b := f.batch(s.at)
	if s.index == nil {
		return s.give(b)
	}
	all := len(b.Events)
	b.Events = slices.DeleteFunc(b.Events, func(e Event) bool {
		_, known := s.index.keys[e.Key]
		return e.Type == Delete && !known
	})
	b.Folded += all - len(b.Events)
	return s.give(b)
}

// wanted returns the events that the consumer wants.
func (s *sub) wanted(events []Event) []Event {
	out := make([]Event, 0, len(events))
	for i := range events {
		if s.req.wants(&events[i]) {
			out = append(out, events[i])
		}
	}
	return out
}

// move records that every change up to a position was delivered and handled.
func (s *sub) move(to position) {
	s.at = s.at.advance(to)
	if s.done.Swap(s.at.rev) != s.at.rev && s.waits.Load() > 0 {
		s.wakeWaiting()
	}
}

// wakeWaiting wakes the callers that wait for done or whole to advance.
func (s *sub) wakeWaiting() { close(s.moved.Swap(newBell()).rung) }

// follows records whether the watch is at the end of the hub's log, so that it shares the hub's
// state.
func (s *sub) follows(yes bool) {
	switch {
	case yes && !s.follow.Load():
		s.follow.Store(true)
		s.once.Do(func() { close(s.ready) })
	case !yes && s.follow.Swap(false):
		s.since.Store(time.Now().UnixNano())
		s.again.Add(1)
	}
}

// status returns the status of the watch.
func (s *sub) status() Status {
	out := Status{State: StateSyncing, Since: time.Unix(0, s.since.Load())}
	var whole *time.Time
	if h := s.shared.Load(); h != nil {
		whole = h.whole.Load() // read before checking whether there is more to handle
		of := h.status()
		out.Reopened = of.Reopened
		if s.follow.Load() {
			out = of
		}
	}
	if !s.quiet.Load() || !s.cur.level() {
		whole = s.whole.Load()
	}
	out.Heard = time.Time{}
	if whole != nil {
		out.Heard = *whole
	}
	out.Reopened += s.again.Load()
	out.Revision = s.done.Load()
	return out
}
