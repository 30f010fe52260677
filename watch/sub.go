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

// sub is one watch: a consumer, its place in a hub's log, and how it gets there. It runs in the consumer's goroutine.
type sub struct {
	core *core
	req  *request
	out  func(Batch) error

	// Of the running goroutine alone.
	caller context.Context //nolint:containedctx // lives as long as run
	ctx    context.Context //nolint:containedctx // the core's, which also ends with the caller's
	wg     sync.WaitGroup  // what the watch has started itself
	hub    *hub
	cur    cursor
	index  *index    // nil for an events watch
	at     position  // everything up to here was delivered and handled
	told   position  // of the last batch
	due    time.Time // of a Progress batch
	asked  time.Time // when progress was requested for one

	shared atomic.Pointer[hub]       // the hub, once there is one
	follow atomic.Bool               // the watch stands at the end of the hub's log, so that its state is the hub's
	quiet  atomic.Bool               // and has handled everything up to there
	whole  atomic.Pointer[time.Time] // everything that had happened by then was handled; nil while that is not known
	since  atomic.Int64              // when it began to do something else, in Unix nanoseconds
	done   atomic.Int64              // the revision of at
	waits  atomic.Int64              // how many wait for done or whole to move
	nudge  chan struct{}             // somebody began to wait: the hub may know more than it has rung for
	moved  atomic.Pointer[bell]
	again  atomic.Uint64 // how often it had to catch up
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

// consumerError is what the consumer said, as opposed to what happened to the watch.
type consumerError struct{ err error }

func (e *consumerError) Error() string { return e.err.Error() }

// Unwrap gives what the consumer said.
func (e *consumerError) Unwrap() error { return e.err }

func fromConsumer(err error) bool {
	_, ok := errors.AsType[*consumerError](err)
	return ok
}

// run watches until the caller's context ends, the consumer has had enough, or the watch cannot go on. It always
// returns an error.
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

// over is the error of a watch that nobody wants any more.
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

// begin brings the consumer to where the hub is.
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

// step delivers what comes next in the log, or waits for it.
func (s *sub) step() error {
	s.quiet.Store(false)
	whole := s.hub.whole.Load()                    // first: what was there by then is in the log
	bell, reached := s.hub.wake.Load(), s.hub.at() // in this order: up to there all is in the log, and what comes later rings
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

// minProgressInterval is how often a watch with [WithProgress] requests a progress report at the most.
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
			s.hub.waits.Add(1) // the hub rings when the revision has moved
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

// give hands one batch to the consumer.
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

// giveFold hands over what has piled up. What came and went while nobody looked is left out where the index tells.
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

// wanted leaves out what the consumer does not want.
func (s *sub) wanted(events []Event) []Event {
	out := make([]Event, 0, len(events))
	for i := range events {
		if s.req.wants(&events[i]) {
			out = append(out, events[i])
		}
	}
	return out
}

// move says that everything up to a position was delivered and handled.
func (s *sub) move(to position) {
	s.at = s.at.advance(to)
	if s.done.Swap(s.at.rev) != s.at.rev && s.waits.Load() > 0 {
		s.wakeWaiting()
	}
}

// wakeWaiting wakes who waits for done or whole to move.
func (s *sub) wakeWaiting() { close(s.moved.Swap(newBell()).rung) }

// follows says whether the watch stands at the end of the hub's log, so that its state is the hub's.
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

// status is how the watch stands.
func (s *sub) status() Status {
	out := Status{State: StateSyncing, Since: time.Unix(0, s.since.Load())}
	var whole *time.Time
	if h := s.shared.Load(); h != nil {
		whole = h.whole.Load() // before it is looked whether there is more to handle
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
