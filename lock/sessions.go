package lock

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/lease"
)

// tenancy is a key's place on a session. A lease carries a bounded number of keys.
type tenancy struct {
	*lease.Session

	done func() // the key is gone; may be called several times
}

// session returns a place on a session that lives: on the shared one, or with [WithTTL] on one of the locker's own.
func (l *Locker) session(ctx context.Context) (tenancy, error) {
	if l.ttlSet {
		return l.sessions.get(ctx)
	}
	s, done, err := l.leases.Acquire(ctx)
	return tenancy{s, done}, err
}

// tenantsMost is how many keys one of the locker's own leases carries: a lease that ends deletes them in one transaction.
const tenantsMost = 256

// ownSessions are the sessions of a locker with a TTL of its own.
type ownSessions struct {
	l *Locker

	mu      sync.Mutex
	list    []*ownSession
	opening chan struct{} // closed when the one on its way is there, or is not; nil when none is
}

type ownSession struct {
	*lease.Session

	tenants int
}

// get returns a place on a session, which is opened where none has room. One is opened at a time.
func (o *ownSessions) get(ctx context.Context) (tenancy, error) {
	for {
		o.mu.Lock()
		if t, ok := o.pick(); ok {
			o.mu.Unlock()
			return t, nil
		}
		wait := o.opening
		if wait == nil {
			o.opening = make(chan struct{})
			o.mu.Unlock()
			if err := o.open(ctx); err != nil {
				return tenancy{}, err
			}
			continue
		}
		o.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return tenancy{}, retry.ContextError(ctx)
		}
	}
}

// pick returns a place where there is one. The lock is held.
func (o *ownSessions) pick() (tenancy, bool) {
	o.list = slices.DeleteFunc(o.list, func(s *ownSession) bool { return s.Err() != nil })
	for _, s := range o.list {
		if s.tenants < tenantsMost {
			s.tenants++
			return tenancy{s.Session, sync.OnceFunc(func() {
				o.mu.Lock()
				s.tenants--
				o.mu.Unlock()
			})}, true
		}
	}
	return tenancy{}, false
}

// open opens one more, for the caller and whoever waits.
func (o *ownSessions) open(ctx context.Context) error {
	s, err := o.l.leases.OpenSession(ctx, lease.WithTTL(o.l.ttl))
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		o.list = append(o.list, &ownSession{Session: s})
	}
	close(o.opening)
	o.opening = nil
	return err
}

// close revokes the leases.
func (o *ownSessions) close() error {
	o.mu.Lock()
	list := o.list
	o.list = nil
	o.mu.Unlock()
	all := make([]error, len(list))
	var wg sync.WaitGroup
	for i, s := range list {
		wg.Go(func() { all[i] = s.Close() })
	}
	wg.Wait()
	return errors.Join(all...)
}
