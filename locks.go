package etcdkit

import (
	"errors"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/lock"
)

// lockers are the lockers of a client and of those made from it, one for each namespace, made when first asked for.
type lockers struct {
	mu     sync.Mutex
	byDir  map[string]*lock.Locker
	closed bool
}

// Locks is what makes locks and elections in the client's namespace. It is the same for every call, and for clients of one
// namespace. What it holds is on the shared session of [Client.Leases].
func (c *Client) Locks() *lock.Locker {
	l := &c.lockers
	l.mu.Lock()
	defer l.mu.Unlock()
	dir := c.store.Dir()
	if known := l.byDir[dir]; known != nil && !c.badDir {
		return known
	}
	made := lock.New(c, lock.WithLogger(c.set.logger), lock.WithWaitHook(c.set.observer.LockWait))
	switch {
	case c.badDir: // each of its calls says so, and it never has anything to close
	case l.closed:
		_ = made.Close() // has nothing to give back
	default:
		if l.byDir == nil {
			l.byDir = map[string]*lock.Locker{}
		}
		l.byDir[dir] = made
	}
	return made
}

// locksAlone is how long locks are released one by one before their session is closed, which releases them all.
const locksAlone = time.Second

// close releases all locks, or, where that takes long, goes on with it in the background; rest waits for that.
func (l *lockers) close() (rest func() error) {
	l.mu.Lock()
	l.closed = true
	var wg sync.WaitGroup
	var mu sync.Mutex
	var bad []error
	for _, one := range l.byDir {
		wg.Go(func() {
			if err := one.Close(); err != nil {
				mu.Lock()
				bad = append(bad, err)
				mu.Unlock()
			}
		})
	}
	l.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		wg.Wait()
	}()
	timer := time.NewTimer(locksAlone)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	return func() error {
		<-done
		return errors.Join(bad...)
	}
}
