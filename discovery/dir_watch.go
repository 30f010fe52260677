package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/watch"
)

// retryingWatch watches the state below a prefix and reopens the watch whenever it ends.
type retryingWatch struct {
	watcher *watch.Watcher
	sel     watch.Selector
	log     *slog.Logger
	onStart func()              // called before each watch, whose first batches, up to one without More, are the whole state
	onBatch func(b watch.Batch) // called sequentially

	ready chan struct{} // closed when the first watch is live
	ended chan struct{} // closed when no further watch follows

	sub        atomic.Pointer[watch.Subscription]
	completeAt atomic.Pointer[dualTime] // time at which no change was missing; nil if there was none
	restarts   atomic.Uint64

	mu  sync.Mutex
	err error // why the last watch ended
}

// Backoff between watches, and how long await waits without a deadline.
const (
	minBackoff         = 100 * time.Millisecond
	maxBackoff         = 5 * time.Second
	defaultOpenTimeout = 10 * time.Second
	ageInterval        = time.Second // how often the age is updated
)

func newRetryingWatch(w *watch.Watcher, prefix string, log *slog.Logger) *retryingWatch {
	return &retryingWatch{
		watcher: w, sel: watch.Prefix(prefix), log: log,
		ready: make(chan struct{}), ended: make(chan struct{}),
	}
}

// run keeps a watch open until ctx ends, or until the first one ends before it was live.
func (f *retryingWatch) run(ctx context.Context) {
	defer close(f.ended)
	wait := newBackoff()
	for failed := false; ; failed = true {
		live, err := f.watch(ctx, failed)
		if live {
			wait.Reset()
		}
		f.mu.Lock()
		f.err = errs.Cause(err)
		f.mu.Unlock()
		if ctx.Err() != nil || errors.Is(err, errs.Closed) || !f.wasLive() {
			return
		}
		if live || !failed {
			f.log.WarnContext(ctx, "watch ended; reopening it", "selector", f.sel.String(), "error", err)
		}
		f.restarts.Add(1)
		if retry.Sleep(ctx, wait.NextBackOff()) != nil {
			return
		}
	}
}

// watch runs one watch. reopened reports whether an earlier one ended, in which case it logs when
// this one is live.
func (f *retryingWatch) watch(ctx context.Context, reopened bool) (live bool, err error) {
	f.onStart()
	sub, err := f.watcher.Subscribe(f.sel, func(_ context.Context, b watch.Batch) error {
		f.onBatch(b)
		return nil
	}, watch.WithSnapshot())
	if err != nil {
		return false, err
	}
	f.sub.Store(sub)
	defer sub.Close() //nolint:errcheck // always nil
	ready := sub.Ready()
	tick := time.NewTicker(ageInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.age()
		case <-ready:
			ready, live = nil, true
			f.age()
			if reopened {
				f.log.WarnContext(ctx, "watch is live again", "selector", f.sel.String())
			}
			if !f.wasLive() {
				close(f.ready)
			}
		case <-sub.Done():
			return live, sub.Err()
		case <-ctx.Done():
			return live, ctx.Err()
		}
	}
}

func (f *retryingWatch) wasLive() bool {
	select {
	case <-f.ready:
		return true
	default:
		return false
	}
}

// await waits until the first watch is live.
func (f *retryingWatch) await(ctx context.Context) error {
	var patience <-chan time.Time
	if _, ok := ctx.Deadline(); !ok {
		t := time.NewTimer(defaultOpenTimeout)
		defer t.Stop()
		patience = t.C
	}
	select {
	case <-f.ready:
		return nil
	case <-f.ended:
		return f.cause()
	case <-ctx.Done():
		return f.withCause(retry.ContextError(ctx))
	case <-patience:
		return f.withCause(fmt.Errorf("%w: %w: the watch did not become live", errs.Unavailable, context.DeadlineExceeded))
	}
}

// withCause adds the reason why the watch is down to err, if it is known.
func (f *retryingWatch) withCause(err error) error {
	if why := f.cause(); why != nil {
		return fmt.Errorf("%w: %w", err, why)
	}
	return err
}

// cause returns why the watch is down, if it is known.
func (f *retryingWatch) cause() error {
	if sub := f.sub.Load(); sub != nil {
		if st := sub.Status(); st.Err != nil {
			_, condition := retry.Classify(st.Err, false)
			return retry.WithCondition(st.Err, condition)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// isLive reports whether the watch is live.
func (f *retryingWatch) isLive() bool {
	sub := f.sub.Load()
	return sub != nil && !isDone(sub) && sub.Status().State == watch.StateLive
}

// age bounds for how long changes may have been missed.
func (f *retryingWatch) age() time.Duration {
	sub := f.sub.Load()
	if sub != nil && !isDone(sub) {
		if st := sub.Status(); !st.Heard.IsZero() {
			f.setCompleteAt(st.Heard)
		}
	}
	if at := f.completeAt.Load(); at != nil {
		return at.since()
	}
	return 0
}

// setCompleteAt records that no change was missing at a wall-clock time. A time in the future,
// after the clock was set back, is ignored.
func (f *retryingWatch) setCompleteAt(at time.Time) {
	since := time.Since(at)
	if since < 0 {
		return
	}
	now := &dualTime{wall: at.Round(0), mono: time.Now().Add(-since)}
	for {
		last := f.completeAt.Load()
		if last != nil && (at.Equal(last.wall) || !now.mono.After(last.mono)) || f.completeAt.CompareAndSwap(last, now) {
			return
		}
	}
}

// dualTime is a time on two clocks: the wall clock may be set, and the monotonic clock may stop
// while the machine is suspended.
type dualTime struct {
	wall time.Time // without monotonic reading
	mono time.Time
}

// since returns the time elapsed since m, by the clock that shows more.
func (m *dualTime) since() time.Duration {
	return max(time.Since(m.mono), time.Now().Round(0).Sub(m.wall), 0)
}

func isDone(sub *watch.Subscription) bool {
	select {
	case <-sub.Done():
		return true
	default:
		return false
	}
}

func newBackoff() backoff.BackOff {
	b := retry.Policy{BaseDelay: minBackoff, MaxDelay: maxBackoff}.Backoff()
	b.Reset()
	return b
}
