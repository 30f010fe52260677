// Package retrywatch keeps a watch open: whenever one ends, it opens another.
package retrywatch

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/notify"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/watch"
)

// Config configures a [Watch]. OnStart, OnTick, OnLive and OnEnd may be nil. They are called on the
// goroutine of [Watch.Run].
type Config struct {
	Watcher  *watch.Watcher
	Selector watch.Selector
	Options  []watch.Option // of each watch

	MinBackoff, MaxBackoff time.Duration // bounds of the pause before another watch
	TickInterval           time.Duration

	// RetryFirst opens another watch even if none has been live yet.
	RetryFirst bool

	// OnStart is called before each watch.
	OnStart func()
	// OnBatch is the handler of each watch. OnStart and OnBatch are never called at the same time.
	OnBatch func(ctx context.Context, b watch.Batch) error
	// OnLive is called when a watch has become live, before [Watch.Ready] is closed.
	OnLive func(sub *watch.Subscription)
	// OnTick is called every TickInterval. sub is nil between two watches.
	OnTick func(sub *watch.Subscription)
	// OnEnd is called when a watch has ended and another one will be opened, unless none has been
	// live yet. live reports whether the one that has ended was.
	OnEnd func(err error, live bool)
}

// Watch is a watch that is opened again whenever it ends. It is safe for concurrent use.
type Watch struct {
	config Config
	ready  chan struct{}
	ended  chan struct{}

	subscription atomic.Pointer[watch.Subscription]
	opened       *notify.Broadcast
	restarts     atomic.Uint64

	mu      sync.Mutex
	lastErr error
}

// New returns a Watch. Run must follow.
func New(c Config) *Watch {
	if c.OnStart == nil {
		c.OnStart = func() {}
	}
	if c.OnLive == nil {
		c.OnLive = func(*watch.Subscription) {}
	}
	if c.OnTick == nil {
		c.OnTick = func(*watch.Subscription) {}
	}
	if c.OnEnd == nil {
		c.OnEnd = func(error, bool) {}
	}
	return &Watch{config: c, ready: make(chan struct{}), ended: make(chan struct{}), opened: notify.NewBroadcast()}
}

// Run keeps a watch open. It returns when ctx ends, the watcher is closed, or a watch ends before
// any was live and RetryFirst is not set. It must be called once.
func (w *Watch) Run(ctx context.Context) {
	defer close(w.ended)
	pauses := w.newBackoff()
	ticker := time.NewTicker(w.config.TickInterval)
	defer ticker.Stop()
	for {
		live, err := w.watch(ctx, ticker.C)
		if live {
			pauses.Reset()
		}
		w.mu.Lock()
		w.lastErr = errs.Cause(err)
		w.mu.Unlock()
		if ctx.Err() != nil || errors.Is(err, errs.Closed) {
			return
		}
		switch {
		case w.WasLive():
			w.config.OnEnd(err, live)
			w.restarts.Add(1)
		case !w.config.RetryFirst:
			return
		}
		if !w.pause(ctx, ticker.C, pauses.NextBackOff()) {
			return
		}
	}
}

// watch runs one watch until it or ctx ends. live reports whether it became live.
func (w *Watch) watch(ctx context.Context, ticks <-chan time.Time) (live bool, err error) {
	w.config.OnStart()
	sub, err := w.config.Watcher.Subscribe(w.config.Selector, w.config.OnBatch, w.config.Options...)
	if err != nil {
		return false, err
	}
	w.subscription.Store(sub)
	w.opened.Notify()
	defer func() {
		_ = sub.Close() // always nil
		if serr := sub.Err(); serr != nil {
			err = serr
		}
	}()
	ready := sub.Ready()
	for {
		select {
		case <-ticks:
			w.config.OnTick(sub)
		case <-ready:
			ready, live = nil, true
			w.config.OnLive(sub)
			if !w.WasLive() {
				close(w.ready)
			}
		case <-sub.Done():
			return live, sub.Err()
		case <-ctx.Done():
			return live, ctx.Err()
		}
	}
}

// pause waits for d and reports whether ctx is still active.
func (w *Watch) pause(ctx context.Context, ticks <-chan time.Time, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-ticks:
			w.config.OnTick(nil)
		case <-ctx.Done():
			return false
		}
	}
}

func (w *Watch) newBackoff() backoff.BackOff {
	b := retry.Policy{BaseDelay: w.config.MinBackoff, MaxDelay: w.config.MaxBackoff}.Backoff()
	b.Reset()
	return b
}

// Ready is closed when the first watch is live.
func (w *Watch) Ready() <-chan struct{} { return w.ready }

// Ended is closed when Run has ended, so that no further watch follows.
func (w *Watch) Ended() <-chan struct{} { return w.ended }

// WasLive reports whether any watch has been live.
func (w *Watch) WasLive() bool {
	select {
	case <-w.ready:
		return true
	default:
		return false
	}
}

// Current returns the subscription that was opened last, which may have ended, or nil if there is
// none yet. next is closed when another one is opened.
func (w *Watch) Current() (sub *watch.Subscription, next <-chan struct{}) {
	next = w.opened.Wait() // first, so that the next one is not missed
	return w.subscription.Load(), next
}

// Open returns the current subscription, or nil if it has ended or there is none yet.
func (w *Watch) Open() *watch.Subscription {
	sub := w.subscription.Load()
	if sub == nil {
		return nil
	}
	select {
	case <-sub.Done():
		return nil
	default:
		return sub
	}
}

// IsLive reports whether the current watch delivers changes as they happen.
func (w *Watch) IsLive() bool {
	sub := w.Open()
	return sub != nil && sub.Status().State == watch.StateLive
}

// StatusErr returns the error of the last failed attempt to connect, if the current watch is stale.
func (w *Watch) StatusErr() error {
	if sub := w.subscription.Load(); sub != nil {
		return sub.Status().Err
	}
	return nil
}

// LastErr returns the error of the last watch that has ended, or nil.
func (w *Watch) LastErr() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lastErr
}

// Restarts returns how often another watch followed one that had ended, not counting those before
// the first live one.
func (w *Watch) Restarts() uint64 { return w.restarts.Load() }
