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

// retryingWatch is a watch of the state below a prefix that is begun anew whenever it ends.
type retryingWatch struct {
	watcher *watch.Watcher
	sel     watch.Selector
	log     *slog.Logger
	onStart func()              // before each watch: its first batches, up to one without More, are the whole state
	onBatch func(b watch.Batch) // one at a time

	ready chan struct{} // closed when the first watch is live
	ended chan struct{} // closed when there is no watch and will be none

	sub        atomic.Pointer[watch.Subscription]
	completeAt atomic.Pointer[dualTime] // nothing was missing then; nil while that was never so
	restarts   atomic.Uint64

	mu  sync.Mutex
	err error // why the last watch ended
}

// The pace of watches that are begun again, and for how long a view is waited for without a deadline.
const (
	minBackoff         = 100 * time.Millisecond
	maxBackoff         = 5 * time.Second
	defaultOpenTimeout = 10 * time.Second
	ageInterval        = time.Second // as often as etcd is asked on a quiet watch
)

func newRetryingWatch(w *watch.Watcher, prefix string, log *slog.Logger) *retryingWatch {
	return &retryingWatch{
		watcher: w, sel: watch.Prefix(prefix), log: log,
		ready: make(chan struct{}), ended: make(chan struct{}),
	}
}

// mono keeps a watch going until ctx ends, or until the first one has ended without ever having been live.
func (f *retryingWatch) run(ctx context.Context) {
	defer close(f.ended)
	wait := newBackoff()
	for failed := false; ; failed = true {
		live, err := f.watch(ctx, failed)
		if live {
			wait.Reset()
		}
		f.mu.Lock()
		f.err = reason(err)
		f.mu.Unlock()
		if ctx.Err() != nil || errors.Is(err, errs.Closed) || !f.wasLive() {
			return
		}
		if live || !failed {
			f.log.WarnContext(ctx, "watch ended; reopening it", "selector", f.sel.String(), "error", err)
		}
		f.restarts.Add(1)
		if !pause(ctx, wait.NextBackOff()) {
			return
		}
	}
}

// watch is one watch from its beginning to its end. reopened reports whether another one ended
// before it, which is logged when this one is live.
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

// withCause adds to an error why the watch is down, as far as that is known.
func (f *retryingWatch) withCause(err error) error {
	if why := f.cause(); why != nil {
		return fmt.Errorf("%w: %w", err, why)
	}
	return err
}

// cause is why the watch is down, as far as that is known.
func (f *retryingWatch) cause() error {
	if sub := f.sub.Load(); sub != nil {
		if st := sub.Status(); st.Err != nil {
			_, condition := retry.Classify(st.Err, false)
			return retry.Explain(st.Err, condition)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// isLive reports whether changes are told as they happen.
func (f *retryingWatch) isLive() bool {
	sub := f.sub.Load()
	return sub != nil && !isDone(sub) && sub.Status().State == watch.StateLive
}

// age is for how long changes may have been missed: at least that long ago nothing was missing. While a watch catches up,
// what counts is the last time that it was live.
func (f *retryingWatch) age() time.Duration {
	sub := f.sub.Load()
	if sub != nil && !isDone(sub) {
		switch st := sub.Status(); {
		case st.Heard.IsZero():
		case st.State == watch.StateLive:
			f.setCompleteAt(st.Heard)
		case st.State == watch.StateStale:
			f.setCompleteAt(st.Since)
		}
	}
	if at := f.completeAt.Load(); at != nil {
		return at.since()
	}
	return 0
}

// setCompleteAt notes that nothing was missing at a time of the wall clock. When that was cannot be told where the time lies in
// the future: then the clock was set back, and what is known stays.
func (f *retryingWatch) setCompleteAt(at time.Time) {
	since := time.Since(at)
	if since < 0 {
		return
	}
	now := &dualTime{wall: at, mono: time.Now().Add(-since)}
	for {
		last := f.completeAt.Load()
		if last != nil && (at.Equal(last.wall) || !now.mono.After(last.mono)) || f.completeAt.CompareAndSwap(last, now) {
			return
		}
	}
}

// dualTime is a time by two clocks: the wall clock may be set, and the other stands still while the machine sleeps.
type dualTime struct {
	wall time.Time // without the other in it
	mono time.Time
}

// since is how long ago m was, by the clock that says more.
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

// pause waits, and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
