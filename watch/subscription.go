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
	sel        Selector
	subscriber *subscriber
	stop       context.CancelFunc
	done       chan struct{}

	mu     sync.Mutex
	err    error
	closed bool
}

// Subscribe calls f for each batch, one at a time, until f returns an error, the watch ends, or the
// subscription or the watcher is closed. It does not wait until the watch is live; see
// [Subscription.Ready]. The context of f ends with the subscription. Subscribe returns an error,
// and sends nothing, if an argument is invalid or the watcher is closed.
func (w *Watcher) Subscribe(s Selector, f func(ctx context.Context, b Batch) error, o ...Option) (*Subscription, error) {
	if f == nil {
		return nil, opError("subscribe", s, fmt.Errorf("%w: no function", errs.Invalid))
	}
	ctx, stop := context.WithCancel(w.core.ctx)
	sub, err := w.prepare(s, o, func(b Batch) error { return callSafely(ctx, f, b) })
	if err != nil {
		stop()
		return nil, opError("subscribe", s, err)
	}
	out := &Subscription{sel: s, subscriber: sub, stop: stop, done: make(chan struct{})}
	if !w.core.spawn(func() { out.run(ctx) }) {
		stop()
		w.core.unregister(sub)
		return nil, opError("subscribe", s, errClosed)
	}
	return out, nil
}

// callSafely calls f and returns a panic as an error.
func callSafely(ctx context.Context, f func(ctx context.Context, b Batch) error, b Batch) (err error) {
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
	err := s.subscriber.run(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	canceled := errors.Is(err, context.Canceled) // also if f returns the error of its context
	if s.closed && (canceled || !fromConsumer(err)) {
		return
	}
	if p, ok := errors.AsType[*PanicError](err); ok {
		s.subscriber.core.log.ErrorContext(context.WithoutCancel(ctx), "watch handler panicked", "selector", s.sel.String(), "panic", fmt.Sprint(p.Value), "stack", string(p.Stack))
	}
	if canceled && s.subscriber.core.ctx.Err() != nil {
		err = errClosed // the context of f ends with the watcher's
	}
	s.err = opError("subscribe", s.sel, err)
}

// Done returns a channel that is closed when the subscription has ended and its function has
// returned.
func (s *Subscription) Done() <-chan struct{} { return s.done }

// Ready returns a channel that is closed when the subscription is live for the first time: its
// snapshot was handled, and every change from then on will be delivered.
func (s *Subscription) Ready() <-chan struct{} { return s.subscriber.ready }

// Err returns why the subscription has ended, or nil before Done is closed. The error is that of
// the function, a [*PanicError], one of the errors of this package, or [ErrClosed] if the watcher
// was closed. Err returns nil if the subscription was closed, unless the function has failed for
// another reason than its context.
func (s *Subscription) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Status returns the status of the subscription. It is cheap.
func (s *Subscription) Status() Status { return s.subscriber.status() }

// Close ends the subscription and waits until its function has returned. It is idempotent. The
// function must not call Close, which would deadlock; it returns an error instead.
func (s *Subscription) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	<-s.done
	return nil
}

// waitProgressInterval is how often [Subscription.WaitRevision] requests progress.
const waitProgressInterval = 20 * time.Millisecond

// WaitRevision waits until every change up to rev was delivered and the function has returned from
// it. After a read at rev, the state that the function keeps is then at least as new as the read.
// WaitRevision also returns, with an error, when ctx or the subscription ends. If nothing changes
// below the selector, it costs one message on the stream, which all waiting callers share. The
// message is repeated every 20 ms until etcd answers.
func (s *Subscription) WaitRevision(ctx context.Context, rev int64) error {
	sub := s.subscriber
	if sub.doneRevision.Load() >= rev {
		return nil
	}
	sub.waiters.Add(1)
	defer sub.waiters.Add(-1)
	ticker := time.NewTicker(waitProgressInterval)
	defer ticker.Stop()
	for {
		advanced := sub.advanced.Wait()
		if sub.doneRevision.Load() >= rev {
			return nil
		}
		if err := s.awaitProgress(ctx, advanced, ticker.C); err != nil {
			return opError("wait", s.sel, err)
		}
	}
}

// awaitProgress requests progress, and waits until advanced is closed or tick receives. It fails if
// the subscription or ctx ends first.
func (s *Subscription) awaitProgress(ctx context.Context, advanced <-chan struct{}, tick <-chan time.Time) error {
	defer s.subscriber.requestCheck()()
	select {
	case <-advanced:
	case <-tick:
	case <-s.done:
		return subscriptionClosed(s.Err())
	case <-ctx.Done():
		return retry.ContextError(ctx)
	}
	return nil
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

// refreshProgressInterval is how often [Subscription.Refresh] requests progress.
const refreshProgressInterval = time.Second

// Refresh waits until every change made before the call, as far as the member that serves the watch
// knows, was delivered and the function has returned from it. Status().Heard is then not before the
// call. On a stream that answers, Refresh costs one message, which all watches of the client share.
// A stream that does not answer for 4 s is replaced, and Refresh continues with the next one if
// that is live within a second. Otherwise, and if the watch is not live, the error matches
// [ErrUnavailable]. Refresh also returns, with an error, when ctx or the subscription ends.
func (s *Subscription) Refresh(ctx context.Context) error {
	sub := s.subscriber
	called := time.Now()
	sub.waiters.Add(1)
	defer sub.waiters.Add(-1)
	ticker := time.NewTicker(refreshProgressInterval)
	defer ticker.Stop()
	for {
		advanced := sub.advanced.Wait()
		st := sub.status()
		switch {
		case isClosed(s.done):
			return opError("refresh", s.sel, subscriptionClosed(s.Err()))
		case !st.Heard.Before(called):
			return nil
		case st.State != StateLive:
			return opError("refresh", s.sel, errors.Join(fmt.Errorf("%w: the watch is not live", errs.Unavailable), st.Err))
		}
		if err := s.awaitProgress(ctx, advanced, ticker.C); err != nil {
			return opError("refresh", s.sel, err)
		}
	}
}
