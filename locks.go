package etcdkit

import (
	"errors"
	"runtime"
	"sync"
	"time"
	"weak"

	"github.com/etcdkit/etcdkit/internal/closing"
	"github.com/etcdkit/etcdkit/lock"
)

// lockers are the lockers of a client and of those made from it, one for each namespace, made when first asked for. They
// are kept as long as something uses them: a lock, or whoever asked for them.
type lockers struct {
	mu     sync.Mutex
	byDir  map[string]weak.Pointer[lock.Locker]
	closed bool
}

// Locks returns the locker of the client's namespace, which makes locks and elections. While one is in use, every call and
// all clients of the namespace get the same. What it holds is on the shared session of [Client.Leases].
func (c *Client) Locks() *lock.Locker {
	l := &c.lockers
	l.mu.Lock()
	defer l.mu.Unlock()
	dir := c.store.Dir()
	if known := l.byDir[dir].Value(); known != nil && !c.badDir {
		return known
	}
	made := lock.New(c, lock.WithLogger(c.set.logger), lock.WithWaitHook(c.set.observer.LockWait))
	switch {
	case c.badDir: // each of its calls says so, and it never has anything to close
	case l.closed:
		_ = made.Close() // has nothing to give back
	default:
		if l.byDir == nil {
			l.byDir = map[string]weak.Pointer[lock.Locker]{}
		}
		l.byDir[dir] = weak.Make(made)
		runtime.AddCleanup(made, l.forget, dir)
	}
	return made
}

// forget removes the entry of a locker that nothing uses any more, unless there is another one by now.
func (l *lockers) forget(dir string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byDir[dir].Value() == nil {
		delete(l.byDir, dir)
	}
}

// removeKeysTimeout is how long locks are released one by one before their sessions are closed, which releases all of them.
// It is short, since etcd is away if it is needed, and then the sessions take their time as well.
const removeKeysTimeout = time.Second

// close waits until no function runs under a lock, for 5 s at most, and then releases all locks, in the background if that
// takes long; rest waits for that.
func (l *lockers) close() (rest func() error) {
	l.mu.Lock()
	l.closed = true
	var wg sync.WaitGroup
	var mu sync.Mutex
	var bad []error
	var drained []<-chan struct{}
	for _, pointer := range l.byDir {
		one := pointer.Value()
		if one == nil {
			continue
		}
		drained = append(drained, closing.Drained(one))
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
	for _, c := range drained {
		<-c // others must not be granted a lock before
	}
	timer := time.NewTimer(removeKeysTimeout)
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
