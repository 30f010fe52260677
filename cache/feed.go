package cache

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// feed is what a Cache and a Replica have in common: a watch of all that lies below a dir, begun anew whenever it ends, and
// a clock that says how old is what it has told.
type feed struct {
	what    string // cache or replica
	dir     string
	prefix  string         // of keys in errors: the dir and a slash, or nothing
	store   *kv.Store      // below the dir
	watcher *watch.Watcher // below the dir
	staleness,
	tick time.Duration
	log *slog.Logger

	opts   []watch.Option
	handle func(ctx context.Context, b watch.Batch) error
	begin  func()                        // before each watch
	live   func()                        // each watch is live for the first time
	clock  func(now, asOf time.Duration) // time has passed; also after live

	born time.Time
	asOf atomic.Int64 // nothing was missing at that time, in nanoseconds since born
	sub  atomic.Pointer[watch.Subscription]
	gate gate

	refresher refresher
	clocking  sync.Mutex // held while clock is called

	ctx      context.Context //nolint:containedctx // the life of all goroutines
	stop     context.CancelFunc
	wg       sync.WaitGroup
	once     sync.Once
	ready    chan struct{} // closed when the first watch is live
	ended    chan struct{} // closed when there will be no further watch
	restarts atomic.Uint64

	restartLog outage.Log // of watches that end; like staleLog it belongs to run
	staleLog   outage.Log // of the time in which the bound is passed

	mu   sync.Mutex
	shut bool
	err  error         // why the last watch ended
	next chan struct{} // closed when another watch begins
}

// The pace of the clock, and of watches that are begun again.
const (
	tickMin    = 10 * time.Millisecond
	tickMax    = 250 * time.Millisecond
	ticks      = 40 // of the shortest bound that the clock watches over
	againFirst = 100 * time.Millisecond
	againMost  = 10 * time.Second
)

// newFeed makes a feed that has not begun.
func newFeed(what string, c Client, dir string, s *settings, shortest time.Duration) *feed {
	prefix, _ := keyspace.Dir(dir) // was checked with the options
	f := &feed{
		what: what, dir: dir, prefix: prefix, store: c.KV().Namespace(dir), watcher: c.Watcher().Namespace(dir),
		staleness: s.staleness, tick: min(max(shortest/ticks, tickMin), tickMax), log: s.logger,
		born: time.Now(), ready: make(chan struct{}), ended: make(chan struct{}), next: make(chan struct{}),
	}
	//nolint:forbidigo // the watch and the reads that callers share must not live by the context of one of them
	f.ctx, f.stop = context.WithCancel(context.Background())
	f.gate.read, f.gate.life, f.gate.spawn, f.gate.late, f.gate.ended = f.revision, f.ctx, f.spawn, f.gaveUp, f.closedError
	return f
}

// now is the time since the feed was made. It cannot be set back.
func (f *feed) now() time.Duration { return time.Since(f.born) }

// age is how long ago it is certain that nothing was missing.
func (f *feed) age() time.Duration { return f.now() - time.Duration(f.asOf.Load()) }

// reach is the age that something as of a time may have before the clock ticks again.
func (f *feed) reach(now, asOf time.Duration) time.Duration { return now - asOf + f.tick }

// fresh reports whether something as of a time is within the bound, and will be until the clock ticks again.
func (f *feed) fresh(now, asOf time.Duration) bool { return f.reach(now, asOf) <= f.staleness }

// start begins the watch, and returns when it is live. On error nothing is left behind.
func (f *feed) start(ctx context.Context, progress func() uint64) error {
	if ctx == nil {
		return fmt.Errorf("%w: nil context", errs.Invalid)
	}
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

// close ends everything and returns when nothing runs any more.
func (f *feed) close() {
	f.once.Do(func() {
		f.mu.Lock()
		f.shut = true
		f.mu.Unlock()
		f.stop()
		f.wg.Wait()
	})
}

// spawn starts a goroutine that close waits for, unless the feed is closed.
func (f *feed) spawn(g func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.shut {
		f.wg.Go(g)
	}
	return !f.shut
}

// closed reports whether the feed was closed.
func (f *feed) closed() bool { return f.ctx.Err() != nil }

// isLive reports whether the watch tells of changes as they happen.
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

// why is why the watch is not live, as far as that is known.
func (f *feed) why() error {
	if sub := f.sub.Load(); sub != nil {
		if st := sub.Status(); st.Err != nil {
			return st.Err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// run keeps a watch going.
func (f *feed) run() {
	wait := newBackoff()
	for {
		f.begin()
		began := f.now()
		sub, err := f.watcher.Subscribe(watch.Prefix(""), f.handle, f.opts...)
		if err == nil {
			f.mu.Lock()
			f.sub.Store(sub)
			close(f.next)
			f.next = make(chan struct{})
			f.mu.Unlock()
			if f.follow(sub, began) {
				wait.Reset()
			}
			_ = sub.Close() // always nil
			err = sub.Err()
		}
		f.mu.Lock()
		f.err = reason(err)
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
			f.log.WarnContext(f.ctx, "cache begins its watch anew", "dir", f.dir, "error", err)
		}
		f.restarts.Add(1)
		over := errors.Is(err, errs.Closed)
		if over {
			close(f.ended)
		}
		if !f.pass(wait.NextBackOff(), over) {
			return
		}
	}
}

// wait waits until everything up to rev was delivered and handled.
func (f *feed) wait(ctx context.Context, rev int64) error {
	if ctx == nil {
		return fmt.Errorf("%w: nil context", errs.Invalid)
	}
	for {
		f.mu.Lock()
		sub, next := f.sub.Load(), f.next
		f.mu.Unlock()
		if sub.WaitRevision(ctx, rev) == nil {
			return nil
		}
		if err := retry.ContextError(ctx); err != nil {
			if f.isLive() {
				return err // it has not happened yet
			}
			return f.gaveUp(ctx)
		}
		select {
		case <-next:
		case <-f.ended:
			return f.closedError()
		case <-f.ctx.Done():
			return f.closedError()
		case <-ctx.Done():
			return f.gaveUp(ctx)
		}
	}
}

func newBackoff() backoff.BackOff {
	b := retry.Policy{BaseDelay: againFirst, MaxDelay: againMost}.Backoff()
	b.Reset()
	return b
}

// pass lets time pass, for d or for ever, and reports whether the feed lives.
func (f *feed) pass(d time.Duration, forever bool) bool {
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
			f.advance()
		case <-end.C:
			return true
		case <-f.ctx.Done():
			return false
		}
	}
}

// follow keeps the clock while one watch lasts, and reports whether it was ever live.
func (f *feed) follow(sub *watch.Subscription, began time.Duration) (live bool) {
	tick := time.NewTicker(f.tick)
	defer tick.Stop()
	p := &freshness{feed: f, status: sub.Status}
	ready := sub.Ready()
	for {
		select {
		case <-ready:
			ready, live = nil, true
			f.live()
			p.move(began) // what was read, and what is to be read, is newer
			p.look()
			f.advance()
			if _, ends, lasted := f.restartLog.Update(false, time.Now()); ends {
				f.log.WarnContext(f.ctx, "cache follows its watch again", "dir", f.dir, "after", lasted.Round(time.Millisecond))
			}
			select {
			case <-f.ready:
			default:
				close(f.ready)
			}
		case <-tick.C:
			f.advance() // first, since to look may take its time
			p.look()
			f.advance()
		case <-sub.Done():
			return live
		case <-f.ctx.Done():
			return live
		}
	}
}

// advance tells the clock what time it is, and logs when the bound of staleness is passed and when it holds again.
func (f *feed) advance() {
	now, asOf := f.updateClock()
	select {
	case <-f.ready:
	default:
		return // Open reports what is wrong
	}
	stale := !f.fresh(now, asOf) && (!f.isLive() || f.refresher.overdue()) // else nobody has read
	begins, ends, lasted := f.staleLog.Update(stale && !f.closed(), time.Now())
	switch {
	case begins:
		attrs := []any{"dir", f.dir, "age", f.reach(now, asOf).Round(time.Millisecond), "bound", f.staleness}
		if cause := f.why(); cause != nil {
			attrs = append(attrs, "error", cause)
		}
		f.log.WarnContext(f.ctx, "cache is staler than allowed", attrs...)
	case ends && !f.closed():
		f.log.WarnContext(f.ctx, "cache is fresh again", "dir", f.dir, "after", lasted.Round(time.Millisecond))
	}
}
