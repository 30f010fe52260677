package lock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

// Client is what a [Locker] is made of: *etcdkit.Client, or parts of your own, which must be in one namespace.
type Client interface {
	KV() *kv.Store
	Watcher() *watch.Watcher
	Leases() *lease.Manager
}

// Locker makes locks and elections, and has what they share: the session, one watch for each name in use, and the places
// in queues. It is safe for concurrent use, and usually one for a process.
type Locker struct {
	settings

	bad      error // what is wrong with the locker: every call returns it
	store    *kv.Store
	watcher  *watch.Watcher
	leases   *lease.Manager
	ns       string // what the keys of store are relative to
	id       string // in the nonce of each of our keys
	sessions *ownSessions

	keepWatch, watchAfter time.Duration

	hook    *waitHook
	life    context.Context //nolint:containedctx // of the locker: what callers share must not live by the context of one
	endLife context.CancelCauseFunc
	nonces  atomic.Uint64
	counts  counts

	mu      sync.Mutex
	closed  bool
	callers sync.WaitGroup // calls under way
	funcs   sync.WaitGroup // functions that run under a lock: those of Do and Run
	jobs    sync.WaitGroup // work in the background
	queues  map[string]*queue
	places  map[string]*place   // what is, or may be, in etcd, by key
	dirty   map[string]struct{} // keys that are being swept

	closing  sync.Once
	closeErr error
}

// counts are the counters behind Stats.
type counts struct {
	acquired, lost, turns, swept, reopened, confirmed atomic.Uint64
	held, waiting, watched                            atomic.Int64
}

// New returns a locker over the parts of c. It sends nothing.
//
// What is wrong with the options is returned by every call, since New has no error result.
func New(c Client, o ...Option) *Locker {
	s, bad := newSettings(o)
	l := &Locker{settings: s, bad: bad, keepWatch: keepWatch, watchAfter: watchAfter}
	if bad == nil {
		l.bad = l.take(c)
	}
	if l.bad != nil {
		l.closed = true
		return l
	}
	l.ns = l.store.Dir()
	l.id = strconv.FormatUint(rand.Uint64(), 36)
	l.sessions = &ownSessions{l: l}
	l.hook = newWaitHook(l, s.onWait)
	l.queues, l.places, l.dirty = map[string]*queue{}, map[string]*place{}, map[string]struct{}{}
	//nolint:forbidigo // the locker's own life: no caller's metadata or deadline may reach what callers share
	l.life, l.endLife = context.WithCancelCause(context.Background())
	return l
}

// take takes the parts out of c.
func (l *Locker) take(c Client) error {
	if c == nil || reflect.ValueOf(c).Kind() == reflect.Pointer && reflect.ValueOf(c).IsNil() {
		return fmt.Errorf("%w: no client", errs.Invalid)
	}
	l.store, l.watcher, l.leases = c.KV(), c.Watcher(), c.Leases()
	if l.store == nil || l.watcher == nil || l.leases == nil {
		return fmt.Errorf("%w: the client lacks a part", errs.Invalid)
	}
	return nil
}

// begin begins a call: its context also ends with the locker. done must be called when it is over; Close waits for that.
func (l *Locker) begin(ctx context.Context) (bound context.Context, done func(), err error) {
	if l.bad != nil {
		return nil, nil, l.bad
	}
	if ctx == nil {
		return nil, nil, fmt.Errorf("%w: nil context", errs.Invalid)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, closedError("locker")
	}
	l.callers.Add(1)
	bound, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(l.life, func() { cancel(context.Cause(l.life)) })
	return bound, func() {
		unlink()
		cancel(nil)
		l.callers.Done()
	}, nil
}

// beginFunc registers a function that is about to run under a lock, for which Close waits. done
// must be called when it has returned and its lock is released.
func (l *Locker) beginFunc() (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, closedError("locker")
	}
	l.funcs.Add(1)
	return l.funcs.Done, nil
}

// spawn runs f in the background, and Close waits for it. It reports false, and does nothing, after Close.
func (l *Locker) spawn(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.jobs.Go(f)
	return true
}

// Stats is what a locker has and did. Counters start at 0 and only grow.
type Stats struct {
	Held    int `json:"held"`    // holds that were granted and neither lost nor released
	Waiting int `json:"waiting"` // calls that wait
	Names   int `json:"names"`   // that are in use
	Watched int `json:"watched"` // that are watched, and known; also for 30 s after their last use

	Acquired  uint64 `json:"acquired"`  // holds granted
	Turns     uint64 `json:"turns"`     // of these, taken over from another goroutine of this process
	Lost      uint64 `json:"lost"`      // holds lost
	Swept     uint64 `json:"swept"`     // keys removed in the background
	Reopened  uint64 `json:"reopened"`  // queue watches that ended and were begun anew
	Confirmed uint64 `json:"confirmed"` // queues read to make sure
}

// Stats returns the counters. It sends nothing.
func (l *Locker) Stats() Stats {
	c := &l.counts
	s := Stats{
		Held: int(c.held.Load()), Waiting: int(c.waiting.Load()), Acquired: c.acquired.Load(), Turns: c.turns.Load(),
		Watched: int(c.watched.Load()), Lost: c.lost.Load(), Swept: c.swept.Load(), Reopened: c.reopened.Load(), Confirmed: c.confirmed.Load(),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Names = len(l.queues)
	return s
}

// Close ends all waits and holds, with a cause that matches [ErrClosed], waits for the functions of
// Do and Run to return, for 5 s at the most, and only then removes the keys, within 5 s. It waits
// for what runs in the background. It does its work once and returns the same result every time;
// an error means that keys were left to end with their lease, or that a function still runs.
//
// Close must not be called by such a function, which would wait for itself.
func (l *Locker) Close() error {
	l.closing.Do(func() {
		if l.bad == nil {
			l.closeErr = l.close()
		}
	})
	return l.closeErr
}

func (l *Locker) close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	closed := closedError("locker")
	l.endLife(closed)
	l.callers.Wait()
	l.mu.Lock()
	places := make([]*place, 0, len(l.places))
	for _, p := range l.places {
		places = append(places, p)
	}
	l.mu.Unlock()
	for _, p := range places {
		p.fail(closed)
	}
	running := l.awaitFuncs()
	l.hook.wait(farewell)
	l.jobs.Wait()

	l.mu.Lock()
	keys := make([]kv.Op, 0, len(l.places)+len(l.dirty))
	for key := range l.places {
		keys = append(keys, kv.OpDelete(key))
	}
	for key := range l.dirty {
		keys = append(keys, kv.OpDelete(key))
	}
	for _, q := range l.queues {
		if q.idle != nil {
			q.idle.Stop()
		}
	}
	l.mu.Unlock()
	err := l.depart(keys)
	for _, p := range places {
		p.s.done()
	}
	if err = errors.Join(running, err); err != nil {
		return doubtful("close", "", err)
	}
	return nil
}

// awaitFuncs waits for the functions that run under a lock. Their contexts have ended.
func (l *Locker) awaitFuncs() error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.funcs.Wait()
	}()
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return fmt.Errorf("a function still runs %v after its context ended", farewell)
	}
}

// depart removes the keys and ends the locker's own sessions, at once, so that it takes no longer than either.
func (l *Locker) depart(keys []kv.Op) error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(l.life), farewell-grace)
	defer stop()
	var removed, ended error
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := l.store.Batch(ctx, keys...); err != nil {
			removed = fmt.Errorf("places in queues, %d of them, were left to end with their leases: %w", len(keys), err)
		}
	})
	wg.Go(func() { ended = l.sessions.close() })
	wg.Wait()
	return errors.Join(removed, ended)
}
