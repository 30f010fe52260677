package watch

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Subscription is a watch that calls a function. It is safe for concurrent use.
type Subscription struct {
	sel  Selector
	sub  *sub
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	err    error
	closed bool
}

// Subscribe runs f for each batch, one at a time, until f fails, the subscription is closed or the watcher is. It
// returns at once: Ready tells when the watch is live. The context of f ends with the subscription. What is wrong with
// the arguments is the error, and nothing was sent then.
func (w *Watcher) Subscribe(s Selector, f func(ctx context.Context, b Batch) error, o ...Option) (*Subscription, error) {
	if f == nil {
		return nil, fail("subscribe", s, fmt.Errorf("%w: no function", errs.Invalid))
	}
	if w.core == nil {
		return nil, fail("subscribe", s, w.bad)
	}
	ctx, stop := context.WithCancel(w.core.ctx)
	one, err := w.prepare(ctx, s, o, func(b Batch) error { return contained(ctx, f, b) })
	if err != nil {
		stop()
		return nil, fail("subscribe", s, err)
	}
	out := &Subscription{sel: s, sub: one, stop: stop, done: make(chan struct{})}
	if !w.core.spawn(func() { out.run(ctx) }) {
		stop()
		w.core.end(one)
		return nil, fail("subscribe", s, errClosed)
	}
	return out, nil
}

// contained calls f and makes an error of a panic.
func contained(ctx context.Context, f func(ctx context.Context, b Batch) error, b Batch) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return f(ctx, b)
}

func (s *Subscription) run(ctx context.Context) {
	defer close(s.done)
	defer s.stop()
	err := s.sub.run(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	canceled := errors.Is(err, context.Canceled) // also where the function passes on how its context has ended
	if s.closed && (canceled || !fromConsumer(err)) {
		return
	}
	if p, ok := errors.AsType[*PanicError](err); ok {
		s.sub.core.log.ErrorContext(context.WithoutCancel(ctx), "watch handler panicked", "selector", s.sel.String(), "panic", fmt.Sprint(p.Value), "stack", string(p.Stack))
	}
	if canceled && s.sub.core.ctx.Err() != nil {
		err = errClosed // its context is the watcher's
	}
	s.err = fail("subscribe", s.sel, err)
}

// Done is closed when the subscription has ended and its function has returned.
func (s *Subscription) Done() <-chan struct{} { return s.done }

// Ready is closed when the subscription is live for the first time: its snapshot was handled, and each change from now on will be delivered.
func (s *Subscription) Ready() <-chan struct{} { return s.sub.ready }

// Err is nil before Done. After it, it says why the subscription has ended: the error of its function, a [*PanicError],
// one of the package's conditions, [ErrClosed] when the watcher was closed; nil when the subscription was.
func (s *Subscription) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Status is how the subscription stands. It is cheap.
func (s *Subscription) Status() Status { return s.sub.status() }

// Close ends the subscription and returns when its function has. It is idempotent, and not for use by the function
// itself, which returns an error instead.
func (s *Subscription) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	<-s.done
	return nil
}

// waitAsk is how often a progress report is asked for while somebody waits for it.
const waitAsk = 20 * time.Millisecond

// WaitRevision waits until everything up to rev was delivered and the function has returned from it: after a read at
// rev, what the function has made of the changes is at least as new as the read. Where nothing happens below the
// selector it costs one message on the stream, which all who wait share.
func (s *Subscription) WaitRevision(ctx context.Context, rev int64) error {
	if ctx == nil {
		return fail("wait", s.sel, fmt.Errorf("%w: nil context", errs.Invalid))
	}
	one := s.sub
	if one.done.Load() >= rev {
		return nil
	}
	one.waits.Add(1)
	defer one.waits.Add(-1)
	ask := time.NewTicker(waitAsk)
	defer ask.Stop()
	for {
		moved := one.moved.Load()
		if one.done.Load() >= rev {
			return nil
		}
		unask := one.ask()
		select {
		case <-moved.rung:
		case <-ask.C:
		case <-s.done:
			unask()
			return fail("wait", s.sel, subscriptionClosed(s.Err()))
		case <-ctx.Done():
			unask()
			return fail("wait", s.sel, retry.ContextError(ctx))
		}
		unask()
	}
}

// ask has the watch look at how far its hub is, and the hub ask for a progress report, and tell of it.
func (s *sub) ask() (done func()) {
	h := s.shared.Load()
	if h == nil {
		return func() {}
	}
	h.waits.Add(1) // from here on the hub rings; what it has heard before, the watch looks up
	notify(s.nudge)
	notify(h.asked)
	return func() { h.waits.Add(-1) }
}

// isClosed reports whether c is closed.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// refreshAsk is how often [Subscription.Refresh] asks again.
const refreshAsk = time.Second

// Refresh waits until everything that had happened when it was called was delivered and the function has returned from it,
// as far as the member knows that serves the watch: afterwards Status().Heard is not before the call. On a stream that
// answers it costs one message, which all watches of the client share. A stream that does not answer for 4 s is replaced,
// and Refresh goes on with the next one if that is there within a second; otherwise, and if the watch is not live, the error
// matches [ErrUnavailable]. It also ends with ctx and with the subscription.
func (s *Subscription) Refresh(ctx context.Context) error {
	if ctx == nil {
		return fail("refresh", s.sel, fmt.Errorf("%w: nil context", errs.Invalid))
	}
	one := s.sub
	called := time.Now()
	one.waits.Add(1)
	defer one.waits.Add(-1)
	again := time.NewTicker(refreshAsk)
	defer again.Stop()
	for {
		moved := one.moved.Load()
		st := one.status()
		switch {
		case isClosed(s.done):
			return fail("refresh", s.sel, subscriptionClosed(s.Err()))
		case !st.Heard.Before(called):
			return nil
		case st.State != StateLive:
			return fail("refresh", s.sel, errors.Join(fmt.Errorf("%w: the watch is not live", errs.Unavailable), st.Err))
		}
		unask := one.ask()
		select {
		case <-moved.rung:
		case <-again.C:
		case <-s.done:
			unask()
			return fail("refresh", s.sel, subscriptionClosed(s.Err()))
		case <-ctx.Done():
			unask()
			return fail("refresh", s.sel, retry.ContextError(ctx))
		}
		unask()
	}
}
