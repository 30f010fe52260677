package cache

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/outage"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/retrywatch"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// watchedDir is the common part of a Cache and a Replica: a watch of the dir, which is reopened
// whenever it ends, and a clock that knows how stale the watched state may be.
type watchedDir struct {
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

	watch *retrywatch.Watch // set by start

	watchOptions []watch.Option
	handle       func(ctx context.Context, b watch.Batch) error
	beforeWatch  func() // called before each watch
	// called when a watch becomes live for the first time
	onLive func()
	onTick func(now, asOf time.Duration) // called on each tick, and after live

	startedAt time.Time
	asOf      atomic.Int64 // time up to which no change is missing, in nanoseconds since startedAt
	readIndex readIndex

	refresher refresher
	clocking  sync.Mutex // held while clock is called

	ctx  context.Context //nolint:containedctx // bounds all goroutines
	stop context.CancelFunc
	wg   sync.WaitGroup
	once sync.Once

	// The following fields are used by run and by the functions that the watch calls.
	freshness      *freshness    // of the current watch; nil at first
	watchStartedAt time.Duration // since startedAt
	restartLog     outage.Log    // of watches that end
	staleLog       outage.Log    // of the time in which the bound of staleness is exceeded

	mu   sync.Mutex
	shut bool
}

// Intervals of the clock, and bounds of the pause before a watch is reopened.
const (
	minTick       = 10 * time.Millisecond
	maxTick       = 250 * time.Millisecond
	ticksPerBound = 40 // per shortest bound that the clock checks
	minBackoff    = 100 * time.Millisecond
	maxBackoff    = 10 * time.Second
)

// newWatchedDir returns a watchedDir that is not started.
func newWatchedDir(kind string, c Client, dir string, s *options, shortest time.Duration) *watchedDir {
	prefix, _ := keyspace.Dir(dir) // was validated with the options
	d := &watchedDir{
		kind: kind, dir: dir, prefix: prefix, store: c.KV().Namespace(dir), watcher: c.Watcher().Namespace(dir),
		staleness: s.maxStaleness, tick: min(max(shortest/ticksPerBound, minTick), maxTick), log: s.logger, scope: s.scope,
		startedAt: time.Now(),
	}
	//nolint:forbidigo // shared watches and reads must not depend on a caller's context
	d.ctx, d.stop = context.WithCancel(context.Background())
	d.readIndex = readIndex{read: d.currentRevision, ctx: d.ctx, spawn: d.spawn, waitErr: d.waitError, closedErr: d.closedError}
	return d
}

// now returns the time since startedAt. It is monotonic.
func (d *watchedDir) now() time.Duration { return time.Since(d.startedAt) }

// age returns the time since asOf.
func (d *watchedDir) age() time.Duration { return d.now() - time.Duration(d.asOf.Load()) }

// ageAtNextTick returns the age that a state as of asOf may have at the next tick.
func (d *watchedDir) ageAtNextTick(now, asOf time.Duration) time.Duration { return now - asOf + d.tick }

// isFresh reports whether a state as of asOf is within the bound until the next tick.
func (d *watchedDir) isFresh(now, asOf time.Duration) bool {
	return d.ageAtNextTick(now, asOf) <= d.staleness
}

// start opens the watch and returns once it is live. If it returns an error, d is closed.
func (d *watchedDir) start(ctx context.Context, progress func() uint64) error {
	if err := retry.ContextError(ctx); err != nil {
		return err
	}
	d.watch = retrywatch.New(retrywatch.Config{
		Watcher: d.watcher, Selector: watch.Prefix(""), Options: d.watchOptions,
		MinBackoff: minBackoff, MaxBackoff: maxBackoff, TickInterval: d.tick,
		OnStart: d.startWatch, OnBatch: d.handle, OnLive: d.watchLive, OnTick: d.watchTick, OnEnd: d.watchEnded,
	})
	d.spawn(d.run)
	err := d.await(ctx, progress)
	if err != nil {
		d.close()
	}
	return err
}

// close ends the watch and waits until all goroutines have returned.
func (d *watchedDir) close() {
	d.once.Do(func() {
		d.mu.Lock()
		d.shut = true
		d.mu.Unlock()
		d.stop()
		d.wg.Wait()
		d.tracked.Close()
	})
}

// track adds the metrics of the cache or the replica.
func (d *watchedDir) track(stats func() Stats) {
	d.tracked = scope.Track(d.scope, metrics, d.prefix, func() measured { return measured{stats(), d.age()} })
}

// observeFill begins the operation of a read of etcd. End must follow.
func (d *watchedDir) observeFill(ctx context.Context) (context.Context, scope.Running) {
	return d.scope.Begin(ctx, scope.Operation{Package: "cache", Name: "fill", Target: d.prefix})
}

// spawn starts a goroutine that close waits for. It returns false if d is closed.
func (d *watchedDir) spawn(g func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.shut {
		d.wg.Go(g)
	}
	return !d.shut
}

// closed reports whether d is closed.
func (d *watchedDir) closed() bool { return d.ctx.Err() != nil }

// isLive reports whether the watch is delivering changes as they happen.
func (d *watchedDir) isLive() bool { return d.watch.IsLive() }

// cause returns why the watch is not live, or nil if that is not known.
func (d *watchedDir) cause() error {
	if err := d.watch.StatusErr(); err != nil || d.closed() {
		return err
	}
	return d.watch.LastErr()
}

// run keeps a watch open, and the clock running, until d is closed or the first watch fails.
func (d *watchedDir) run() {
	d.watch.Run(d.ctx)
	if !d.watch.WasLive() {
		return // Open reports the error
	}
	ticker := time.NewTicker(d.tick) // the watcher was closed, so the state in memory becomes stale
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			d.advanceClock()
		case <-d.ctx.Done():
			return
		}
	}
}

// startWatch is called before each watch.
func (d *watchedDir) startWatch() {
	d.beforeWatch()
	d.freshness, d.watchStartedAt = nil, d.now()
}

// watchLive is called when a watch has become live.
func (d *watchedDir) watchLive(sub *watch.Subscription) {
	d.onLive()
	d.advanceAsOf(d.watchStartedAt) // all later events and reads are newer
	d.updateFreshness(sub)
	d.advanceClock()
	if _, ends, lasted := d.restartLog.Update(false, time.Now()); ends {
		d.log.WarnContext(d.ctx, "cache watch is live again", "dir", d.dir, "after", lasted.Round(time.Millisecond))
	}
}

// watchTick is called on each tick. sub is nil while no watch is open.
func (d *watchedDir) watchTick(sub *watch.Subscription) {
	d.advanceClock()
	if sub != nil {
		d.updateFreshness(sub) // may take a while, so the clock advances before and after
		d.advanceClock()
	}
}

// watchEnded is called when another watch will be opened.
func (d *watchedDir) watchEnded(err error, _ bool) {
	if begins, _, _ := d.restartLog.Update(true, time.Now()); begins {
		d.log.WarnContext(d.ctx, "cache reopens its watch", "dir", d.dir, "error", err)
	}
}

func (d *watchedDir) updateFreshness(sub *watch.Subscription) {
	if d.freshness == nil {
		d.freshness = &freshness{watchedDir: d, status: sub.Status}
	}
	d.freshness.update()
}

// wait waits until everything up to rev was delivered and handled.
func (d *watchedDir) wait(ctx context.Context, rev int64) error {
	for {
		sub, reopened := d.watch.Current()
		if sub.WaitRevision(ctx, rev) == nil {
			return nil
		}
		if err := retry.ContextError(ctx); err != nil {
			if d.isLive() {
				return err // etcd has not reached rev
			}
			return d.waitError(ctx)
		}
		select {
		case <-reopened:
		case <-d.watch.Ended():
			return d.closedError()
		case <-d.ctx.Done():
			return d.closedError()
		case <-ctx.Done():
			return d.waitError(ctx)
		}
	}
}

// advanceClock updates the clock, and logs when the bound of staleness is exceeded and when it
// holds again.
func (d *watchedDir) advanceClock() {
	now, asOf := d.updateClock()
	if !d.watch.WasLive() {
		return // Open reports the error
	}
	// A live watch without an overdue refresh only means that there were no reads.
	stale := !d.isFresh(now, asOf) && (!d.isLive() || d.refresher.overdue())
	begins, ends, lasted := d.staleLog.Update(stale && !d.closed(), time.Now())
	switch {
	case begins:
		attrs := []any{"dir", d.dir, "age", d.ageAtNextTick(now, asOf).Round(time.Millisecond), "bound", d.staleness}
		if cause := d.cause(); cause != nil {
			attrs = append(attrs, "error", cause)
		}
		d.log.WarnContext(d.ctx, "cache is staler than allowed", attrs...)
	case ends && !d.closed():
		d.log.WarnContext(d.ctx, "cache is fresh again", "dir", d.dir, "after", lasted.Round(time.Millisecond))
	}
}
