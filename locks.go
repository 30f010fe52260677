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

// lockers holds the lockers of a client, one per namespace, created on first use. A locker is kept
// as long as it is referenced, by a lock or by a caller of Locks.
type lockers struct {
	mu     sync.Mutex
	byDir  map[string]weak.Pointer[lock.Locker]
	closed bool
}

// Locks returns the locker of the client's namespace, which creates locks and elections. While one
// is referenced, every call returns the same one, for all clients of the namespace. Its locks are
// attached to the shared session of [Client.Leases].
func (c *Client) Locks() *lock.Locker {
	l := &c.lockers
	l.mu.Lock()
	defer l.mu.Unlock()
	dir := c.store.Dir()
	if known := l.byDir[dir].Value(); known != nil && !c.badDir {
		return known
	}
	made, err := lock.New(c, lock.WithLogger(c.set.logger), lock.WithWaitHook(c.set.observer.LockWait))
	if err != nil {
		panic(err) // impossible: the client has all parts and the options are valid
	}
	switch {
	case c.badDir: // each of its calls returns an error, and it never holds anything
	case l.closed:
		_ = made.Close() // it holds nothing
	default:
		if l.byDir == nil {
			l.byDir = map[string]weak.Pointer[lock.Locker]{}
		}
		l.byDir[dir] = weak.Make(made)
		runtime.AddCleanup(made, l.forget, dir)
	}
	return made
}

// forget removes the entry of an unreferenced locker, unless a new one has replaced it.
func (l *lockers) forget(dir string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byDir[dir].Value() == nil {
		delete(l.byDir, dir)
	}
}

// removeKeysTimeout is how long Close releases locks one by one before it closes their sessions,
// which releases all of them. It is short, because a slow release means that etcd does not answer,
// and closing the sessions then takes time too.
const removeKeysTimeout = time.Second

// close waits until no function runs under a lock, for at most 5 s, and then releases all locks. If
// the release takes long, it continues in the background; rest waits for it.
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
		<-c // only then may others acquire the locks
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
