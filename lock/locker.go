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

	life    context.Context //nolint:containedctx // of the locker: what callers share must not live by the context of one
	endLife context.CancelCauseFunc
	nonces  atomic.Uint64
	counts  counts

	mu      sync.Mutex
	closed  bool
	callers sync.WaitGroup // calls under way
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
		return nil, nil, errs.Closed
	}
	l.callers.Add(1)
	bound, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(l.life, func() { cancel(errs.Closed) })
	return bound, func() {
		unlink()
		cancel(nil)
		l.callers.Done()
	}, nil
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

// Close ends all waits and holds, with a cause that matches [ErrClosed], removes their keys, within 5 s, and waits for
// what runs in the background. It does its work once and returns the same result every time; an error means that keys
// were left to vanish with their lease.
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
	l.endLife(errs.Closed)
	l.callers.Wait()
	l.jobs.Wait()

	l.mu.Lock()
	keys := make([]kv.Op, 0, len(l.places)+len(l.dirty))
	places := make([]*place, 0, len(l.places))
	for key, p := range l.places {
		places = append(places, p)
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
	for _, p := range places {
		p.fail(errs.Closed)
	}
	err := l.depart(keys)
	for _, p := range places {
		p.s.done()
	}
	if err != nil {
		return doubtful("close", "", err)
	}
	return nil
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
