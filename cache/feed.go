package cache

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/outage"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// feed is the common part of a Cache and a Replica: a watch of the dir, which is reopened whenever
// it ends, and a clock that knows how stale the watched state may be.
type feed struct {
	kind    string // "cache" or "replica"
	dir     string
	prefix  string         // of keys in errors: the dir with a slash, or empty
	store   *kv.Store      // of the dir
	watcher *watch.Watcher // of the dir
	staleness,
	tick time.Duration
	log     *slog.Logger
	scope   *scope.Scope
	tracked *scope.Part // nil until the watch is live for the first time

	opts        []watch.Option
	handle      func(ctx context.Context, b watch.Batch) error
	beforeWatch func()                        // called before each watch
	onLive      func()                        // called when a watch becomes live for the first time
	onTick      func(now, asOf time.Duration) // called on each tick, and after live

	startedAt time.Time
	asOf      atomic.Int64 // time up to which no change is missing, in nanoseconds since startedAt
	sub       atomic.Pointer[watch.Subscription]
	readIndex readIndex

	refresher refresher
	clocking  sync.Mutex // held while clock is called

	ctx      context.Context //nolint:containedctx // bounds all goroutines
	stop     context.CancelFunc
	wg       sync.WaitGroup
	once     sync.Once
	ready    chan struct{} // closed when the first watch is live
	ended    chan struct{} // closed when no further watch will be opened
	restarts atomic.Uint64

	restartLog outage.Log // of watches that end; like staleLog, used by run only
	staleLog   outage.Log // of the time in which the bound of staleness is exceeded

	mu       sync.Mutex
	shut     bool
	err      error         // why the last watch ended
	reopened chan struct{} // closed and replaced when another watch is opened
}

// Intervals of the clock, and bounds of the pause before a watch is reopened.
const (
	minTick       = 10 * time.Millisecond
	maxTick       = 250 * time.Millisecond
	ticksPerBound = 40 // per shortest bound that the clock checks
	minBackoff    = 100 * time.Millisecond
	maxBackoff    = 10 * time.Second
)

// newFeed returns a feed that is not started.
func newFeed(kind string, c Client, dir string, s *options, shortest time.Duration) *feed {
	prefix, _ := keyspace.Dir(dir) // was validated with the options
	f := &feed{
		kind: kind, dir: dir, prefix: prefix, store: c.KV().Namespace(dir), watcher: c.Watcher().Namespace(dir),
		staleness: s.maxStaleness, tick: min(max(shortest/ticksPerBound, minTick), maxTick), log: s.logger, scope: s.scope,
		startedAt: time.Now(), ready: make(chan struct{}), ended: make(chan struct{}), reopened: make(chan struct{}),
	}
	//nolint:forbidigo // shared watches and reads must not depend on a caller's context
	f.ctx, f.stop = context.WithCancel(context.Background())
	f.readIndex = readIndex{read: f.currentRevision, ctx: f.ctx, spawn: f.spawn, waitErr: f.waitError, closedErr: f.closedError}
	return f
}

// now returns the time since startedAt. It is monotonic.
func (f *feed) now() time.Duration { return time.Since(f.startedAt) }

// age returns the time since asOf.
func (f *feed) age() time.Duration { return f.now() - time.Duration(f.asOf.Load()) }

// ageAtNextTick returns the age that a state as of asOf may have at the next tick.
func (f *feed) ageAtNextTick(now, asOf time.Duration) time.Duration { return now - asOf + f.tick }

// isFresh reports whether a state as of asOf is within the bound until the next tick.
func (f *feed) isFresh(now, asOf time.Duration) bool {
	return f.ageAtNextTick(now, asOf) <= f.staleness
}

// start opens the watch and returns once it is live. If it returns an error, the feed is closed.
func (f *feed) start(ctx context.Context, progress func() uint64) error {
	if err := retry.ContextError(ctx); err != nil {
		return err
	}
	f.spawn(f.run)
	err := f.await(ctx, progress)
	if err != nil {
		f.close()
	}
	return err
}

// close ends the watch and waits until all goroutines have returned.
func (f *feed) close() {
	f.once.Do(func() {
		f.mu.Lock()
		f.shut = true
		f.mu.Unlock()
		f.stop()
		f.wg.Wait()
		f.tracked.Close()
	})
}

// track adds the metrics of the cache or the replica.
func (f *feed) track(stats func() Stats) {
	f.tracked = scope.Track(f.scope, metrics, f.prefix, func() measured { return measured{stats(), f.age()} })
}

// spawn starts a goroutine that close waits for. It returns false if the feed is closed.
func (f *feed) spawn(g func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.shut {
		f.wg.Go(g)
	}
	return !f.shut
}

// closed reports whether the feed is closed.
func (f *feed) closed() bool { return f.ctx.Err() != nil }

// isLive reports whether the watch is delivering changes as they happen.
func (f *feed) isLive() bool {
	sub := f.sub.Load()
	if sub == nil {
		return false
	}
	select {
	case <-sub.Done():
		return false
	default:
		return sub.Status().State == watch.StateLive
	}
}

// cause returns why the watch is not live, or nil if that is not known.
func (f *feed) cause() error {
	if sub := f.sub.Load(); sub != nil {
		if st := sub.Status(); st.Err != nil {
			return st.Err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// run keeps a watch open until the feed is closed.
func (f *feed) run() {
	wait := newBackoff()
	for {
		f.beforeWatch()
		startedAt := f.now()
		sub, err := f.watcher.Subscribe(watch.Prefix(""), f.handle, f.opts...)
		if err == nil {
			f.mu.Lock()
			f.sub.Store(sub)
			close(f.reopened)
			f.reopened = make(chan struct{})
			f.mu.Unlock()
			if f.follow(sub, startedAt) {
				wait.Reset()
			}
			_ = sub.Close() // always nil
			err = sub.Err()
		}
		f.mu.Lock()
		f.err = errs.Cause(err)
		f.mu.Unlock()
		if f.closed() {
			return
		}
		select {
		case <-f.ready:
		default: // Open reports it
			close(f.ended)
			return
		}
		if begins, _, _ := f.restartLog.Update(true, time.Now()); begins {
			f.log.WarnContext(f.ctx, "cache reopens its watch", "dir", f.dir, "error", err)
		}
		f.restarts.Add(1)
		permanent := errors.Is(err, errs.Closed)
		if permanent {
			close(f.ended)
		}
		if !f.runClock(wait.NextBackOff(), permanent) {
			return
		}
	}
}

// wait waits until everything up to rev was delivered and handled.
func (f *feed) wait(ctx context.Context, rev int64) error {
	for {
		f.mu.Lock()
		sub, reopened := f.sub.Load(), f.reopened
		f.mu.Unlock()
		if sub.WaitRevision(ctx, rev) == nil {
			return nil
		}
		if err := retry.ContextError(ctx); err != nil {
			if f.isLive() {
				return err // etcd has not reached rev
			}
			return f.waitError(ctx)
		}
		select {
		case <-reopened:
		case <-f.ended:
			return f.closedError()
		case <-f.ctx.Done():
			return f.closedError()
		case <-ctx.Done():
			return f.waitError(ctx)
		}
	}
}

func newBackoff() backoff.BackOff {
	b := retry.Policy{BaseDelay: minBackoff, MaxDelay: maxBackoff}.Backoff()
	b.Reset()
	return b
}

// runClock runs the clock for d, or until the feed is closed if forever is set. It reports whether
// the feed is still open.
func (f *feed) runClock(d time.Duration, forever bool) bool {
	tick := time.NewTicker(f.tick)
	defer tick.Stop()
	if forever {
		d = math.MaxInt64
	}
	end := time.NewTimer(d)
	defer end.Stop()
	for {
		select {
		case <-tick.C:
			f.advanceClock()
		case <-end.C:
			return true
		case <-f.ctx.Done():
			return false
		}
	}
}

// follow runs the clock during one watch, and reports whether the watch was ever live.
func (f *feed) follow(sub *watch.Subscription, startedAt time.Duration) (live bool) {
	tick := time.NewTicker(f.tick)
	defer tick.Stop()
	freshness := &freshness{feed: f, status: sub.Status}
	ready := sub.Ready()
	for {
		select {
		case <-ready:
			ready, live = nil, true
			f.onLive()
			freshness.advanceAsOf(startedAt) // all later events and reads are newer
			freshness.update()
			f.advanceClock()
			if _, ends, lasted := f.restartLog.Update(false, time.Now()); ends {
				f.log.WarnContext(f.ctx, "cache watch is live again", "dir", f.dir, "after", lasted.Round(time.Millisecond))
			}
			select {
			case <-f.ready:
			default:
				close(f.ready)
			}
		case <-tick.C:
			f.advanceClock() // also before update, which may take a while
			freshness.update()
			f.advanceClock()
		case <-sub.Done():
			return live
		case <-f.ctx.Done():
			return live
		}
	}
}

// advanceClock updates the clock, and logs when the bound of staleness is exceeded and when it
// holds again.
func (f *feed) advanceClock() {
	now, asOf := f.updateClock()
	select {
	case <-f.ready:
	default:
		return // Open reports the error
	}
	// A live watch without an overdue refresh only means that there were no reads.
	stale := !f.isFresh(now, asOf) && (!f.isLive() || f.refresher.overdue())
	begins, ends, lasted := f.staleLog.Update(stale && !f.closed(), time.Now())
	switch {
	case begins:
		attrs := []any{"dir", f.dir, "age", f.ageAtNextTick(now, asOf).Round(time.Millisecond), "bound", f.staleness}
		if cause := f.cause(); cause != nil {
			attrs = append(attrs, "error", cause)
		}
		f.log.WarnContext(f.ctx, "cache is staler than allowed", attrs...)
	case ends && !f.closed():
		f.log.WarnContext(f.ctx, "cache is fresh again", "dir", f.dir, "after", lasted.Round(time.Millisecond))
	}
}
