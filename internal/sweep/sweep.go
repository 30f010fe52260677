// Package sweep deletes keys in the background until they are known to be gone.
//
// A key is passed to a [Sweeper] if it could not be deleted, or if a request whose outcome is
// unknown may still create it. In the first case it is swept until a deletion succeeds. In the
// second case it is swept until the leases that it may be on are gone: nothing else proves that the
// request can no longer take effect.
package sweep

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/notify"
	"github.com/etcdkit/etcdkit/internal/retry"
)

const (
	// The timeout is long because a slow response is still a response.
	attemptTimeout = 30 * time.Second

	// During an outage the sweeper tries one key at a time.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second

	// A key that must be swept again waits about as long as it has been swept so far: a late
	// request becomes less likely as time passes.
	minInterval = 2 * time.Second
	maxInterval = 5 * time.Minute
)

// Key is a key to delete.
type Key struct {
	// Name is the key as it appears in logs.
	Name string
	// Leases lists the leases that the key may be on. The key is gone once all of them are gone.
	Leases []clientv3.LeaseID
	// Late means that a request that creates the key may still take effect. The key must then be
	// deleted repeatedly until its leases are gone.
	Late bool
	// Delete deletes the key unless it belongs to another owner. It returns nil if etcd responded,
	// even if there was nothing to delete.
	Delete func(ctx context.Context) error
	// Done, if not nil, is called once the key is known to be gone.
	Done func()
}

// Config connects a sweeper to the leases. Its functions may be called concurrently. They are
// called without any lock held.
type Config struct {
	// Renewed reports whether this process keeps the lease alive.
	Renewed func(clientv3.LeaseID) bool
	// Gone asks etcd whether the lease is gone.
	Gone func(context.Context, clientv3.LeaseID) (bool, error)
	// Retire is called for each lease of a late key. No further keys should be put on the lease,
	// because the key is known to be gone only once the lease is revoked.
	Retire func(clientv3.LeaseID)
	Logger *slog.Logger
}

// Sweeper deletes keys. A single goroutine, which runs while there are keys, serves all of them. It
// is safe for concurrent use.
type Sweeper struct {
	Config

	ctx    context.Context //nolint:containedctx // of the goroutine; a sweep outlives any call
	cancel context.CancelFunc
	wake   chan struct{} // has capacity 1; signals that a key was added
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	running bool
	entries []*Entry
}

// Entry is a key that is being swept.
type Entry struct {
	Key

	s        *Sweeper
	ctx      context.Context //nolint:containedctx // of the sweep
	cancel   context.CancelFunc
	added    time.Time
	due      time.Time
	warn     sync.Once     // about the first refusal
	deleting chan struct{} // full while the key is being deleted
}

// New returns a sweeper. Only the values of ctx are used; the sweeper ends with Close.
func New(ctx context.Context, c Config) *Sweeper {
	s := &Sweeper{Config: c, wake: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return s
}

// Add starts sweeping a key. After Close, it does nothing and returns nil.
func (s *Sweeper) Add(k Key) *Entry {
	now := time.Now()
	k.Leases = slices.Clone(k.Leases)
	e := &Entry{Key: k, s: s, added: now, due: now, deleting: make(chan struct{}, 1)}
	e.ctx, e.cancel = context.WithCancel(s.ctx)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		e.cancel()
		return nil
	}
	s.entries = append(s.entries, e)
	if !s.running {
		s.running = true
		s.wg.Go(s.run)
	}
	s.mu.Unlock()
	notify.Token(s.wake)
	if k.Late {
		for _, id := range k.Leases {
			s.Retire(id)
		}
	}
	return e
}

// Stop stops sweeping the key. When it returns, no deletion is running.
func (e *Entry) Stop() {
	e.s.remove(e)
	e.deleting <- struct{}{}
	<-e.deleting
}

// Close stops the sweeper and returns the keys that are not known to be gone. Later calls return
// none.
func (s *Sweeper) Close() []Key {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	remaining := make([]Key, 0, len(s.entries))
	for _, e := range s.entries {
		remaining = append(remaining, e.Key)
	}
	s.entries = nil
	return remaining
}

func (s *Sweeper) remove(e *Entry) {
	e.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.entries, e); i >= 0 {
		s.entries = slices.Delete(s.entries, i, i+1)
	}
}

// run sweeps until no key is left.
func (s *Sweeper) run() {
	backoff := retry.Policy{BaseDelay: minBackoff, MaxDelay: maxBackoff}.Backoff()
	backoff.Reset()
	timer := time.NewTimer(maxInterval) // Add wakes it earlier
	defer timer.Stop()
	var notBefore time.Time // nothing is sent before this time
	outageLogged := false   // whether the current outage was logged
	for {
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.ctx.Done():
			return
		}
		if now := time.Now(); !now.Before(notBefore) {
			switch err := s.sweepDue(now); {
			case s.ctx.Err() != nil || errors.Is(err, errs.Closed):
				return // nothing can be deleted through a closed client
			case err != nil:
				notBefore = time.Now().Add(backoff.NextBackOff())
				if !outageLogged {
					outageLogged = true
					s.Logger.WarnContext(s.ctx, "keys are not deleted yet", "keys", s.count(), "error", err)
				}
			default:
				backoff.Reset()
				if outageLogged {
					outageLogged = false
					s.Logger.WarnContext(s.ctx, "keys are deleted again")
				}
			}
		}
		next, ok := s.next()
		if !ok {
			return
		}
		timer.Reset(time.Until(later(next, notBefore)))
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// count returns how many keys are being swept.
func (s *Sweeper) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.entries)
}

// next returns when the next key is due. It returns false if there are no keys; the goroutine must
// then exit.
func (s *Sweeper) next() (at time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) == 0 {
		s.running = false
		return at, false
	}
	first := slices.MinFunc(s.entries, func(a, b *Entry) int { return a.due.Compare(b.due) })
	return first.due, true
}

// sweepDue sweeps each key that is due. It stops at the first key for which etcd does not respond,
// and returns the error.
func (s *Sweeper) sweepDue(now time.Time) error {
	s.mu.Lock()
	due := slices.DeleteFunc(slices.Clone(s.entries), func(e *Entry) bool { return e.due.After(now) })
	s.mu.Unlock()
	slices.SortStableFunc(due, func(a, b *Entry) int { return a.due.Compare(b.due) })
	for _, e := range due {
		done, err := e.sweep()
		canceled := e.ctx.Err() != nil
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		switch {
		case done:
			s.remove(e)
			if e.Done != nil && !canceled {
				e.Done()
			}
			continue
		case errors.Is(err, errs.Permission):
			e.warn.Do(func() {
				s.Logger.WarnContext(s.ctx, "key is not deleted yet", "key", errs.Short(e.Name), "error", err)
			})
		case err != nil:
			e.postpone(0) // after the others, in case only this key fails
			return err
		}
		e.postpone(e.interval(time.Now()))
	}
	return nil
}

// postpone schedules the next sweep of the key in d.
func (e *Entry) postpone(d time.Duration) {
	e.s.mu.Lock()
	e.due = time.Now().Add(d)
	e.s.mu.Unlock()
}

// interval returns how long to wait before sweeping the key again.
func (e *Entry) interval(now time.Time) time.Duration {
	d := min(max(now.Sub(e.added), minInterval), maxInterval)
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// sweep deletes the key. It reports whether the key is gone for good or need no longer be swept.
func (e *Entry) sweep() (done bool, err error) {
	e.deleting <- struct{}{}
	defer func() { <-e.deleting }()
	if e.ctx.Err() != nil {
		return true, nil // stopped
	}
	ctx, cancel := context.WithTimeout(e.ctx, attemptTimeout)
	defer cancel()
	err = e.Delete(ctx)
	if err == nil && !e.Late || e.ctx.Err() != nil {
		return true, nil
	}
	if err != nil && !errors.Is(err, errs.Permission) {
		return false, err
	}
	for len(e.Leases) > 0 {
		id := e.Leases[0]
		if e.s.Renewed(id) {
			return false, err
		}
		gone, lookupErr := e.s.Gone(ctx, id)
		if lookupErr != nil {
			return false, lookupErr // more informative than a refusal: etcd does not respond
		}
		if !gone {
			return false, err
		}
		e.Leases = e.Leases[1:]
	}
	return true, nil
}
