package discovery

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/retrywatch"
	"github.com/etcdkit/etcdkit/watch"
)

// dirWatch watches the state below a prefix and knows for how long it may have missed changes.
type dirWatch struct {
	*retrywatch.Watch

	prefix     string
	log        *slog.Logger
	completeAt atomic.Pointer[dualTime] // the last time known to miss no change, or nil
}

// dirHandler gets the state below a prefix. Its methods are called one at a time.
type dirHandler interface {
	// onStart is called before each watch. The first batches of the watch, up to and including the
	// first one without More, are the whole state.
	onStart()
	onBatch(b watch.Batch)
}

const (
	// The backoff between watches, and that of newBackoff.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second

	defaultOpenTimeout = 10 * time.Second // bounds await if the context has no deadline
	ageInterval        = time.Second      // how often the age is updated
)

// newDirWatch returns a watch of the keys below prefix. The caller must call Run. If retryFirst is
// set, another watch is opened even if none was live yet.
func newDirWatch(w *watch.Watcher, prefix string, log *slog.Logger, h dirHandler, retryFirst bool) *dirWatch {
	d := &dirWatch{prefix: prefix, log: log}
	d.Watch = retrywatch.New(retrywatch.Config{
		Watcher: w, Selector: watch.Prefix(prefix), Options: []watch.Option{watch.WithSnapshot()},
		MinBackoff: minBackoff, MaxBackoff: maxBackoff, TickInterval: ageInterval, RetryFirst: retryFirst,
		OnStart: h.onStart,
		OnBatch: func(_ context.Context, b watch.Batch) error {
			h.onBatch(b)
			return nil
		},
		OnLive: d.onLive, OnTick: func(*watch.Subscription) { d.age() }, OnEnd: d.onEnd,
	})
	return d
}

func (d *dirWatch) onLive(*watch.Subscription) {
	d.age()
	if d.WasLive() {
		d.log.Warn("watch is live again", "selector", watch.Prefix(d.prefix).String())
	}
}

func (d *dirWatch) onEnd(err error, live bool) {
	if live || d.Restarts() == 0 {
		d.log.Warn("watch ended; reopening it", "selector", watch.Prefix(d.prefix).String(), "error", err)
	}
}

// await waits until the first watch is live.
func (d *dirWatch) await(ctx context.Context) error {
	var timeout <-chan time.Time
	if _, ok := ctx.Deadline(); !ok {
		t := time.NewTimer(defaultOpenTimeout)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-d.Ready():
		return nil
	case <-d.Ended():
		return d.cause()
	case <-ctx.Done():
		return d.withCause(retry.ContextError(ctx))
	case <-timeout:
		return d.withCause(fmt.Errorf("%w: %w: the watch did not become live", errs.Unavailable, context.DeadlineExceeded))
	}
}

// withCause adds the reason why the watch is down to err, if it is known.
func (d *dirWatch) withCause(err error) error {
	if cause := d.cause(); cause != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// cause returns why the watch is down, if it is known.
func (d *dirWatch) cause() error {
	if err := d.StatusErr(); err != nil {
		_, condition := retry.Classify(err, false)
		return retry.WithCondition(err, condition)
	}
	return d.LastErr()
}

// age returns an upper bound of the time for which changes may have been missed, or 0 if completeAt
// is not known. It updates completeAt.
func (d *dirWatch) age() time.Duration {
	if sub := d.Open(); sub != nil {
		if st := sub.Status(); !st.Heard.IsZero() {
			d.setCompleteAt(st.Heard)
		}
	}
	if at := d.completeAt.Load(); at != nil {
		return at.since()
	}
	return 0
}

// setCompleteAt records that no change was missing at a wall-clock time. It ignores a time in the
// future, which means that the clock was set back, and a time before the last one.
func (d *dirWatch) setCompleteAt(at time.Time) {
	since := time.Since(at)
	if since < 0 {
		return
	}
	now := &dualTime{wall: at.Round(0), mono: time.Now().Add(-since)}
	for {
		last := d.completeAt.Load()
		if last != nil && (at.Equal(last.wall) || !now.mono.After(last.mono)) || d.completeAt.CompareAndSwap(last, now) {
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

// since returns the time elapsed since t. If the clocks disagree, it returns the longer time.
func (t *dualTime) since() time.Duration {
	return max(time.Since(t.mono), time.Now().Round(0).Sub(t.wall), 0)
}

// newBackoff returns the backoff of a registration or a resolver.
func newBackoff() backoff.BackOff {
	b := retry.Policy{BaseDelay: minBackoff, MaxDelay: maxBackoff}.Backoff()
	b.Reset()
	return b
}
