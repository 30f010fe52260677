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
	l := &c.conn.lockers
	l.mu.Lock()
	defer l.mu.Unlock()
	dir := c.store.Dir()
	if locker := l.byDir[dir].Value(); locker != nil && c.dirErr == nil {
		return locker
	}
	locker, err := lock.New(c)
	if err != nil {
		panic(err) // impossible: the client has all parts and the options are valid
	}
	switch {
	case c.dirErr != nil: // each of its calls returns an error, and it never holds anything
	case l.closed:
		_ = locker.Close() // it holds nothing
	default:
		if l.byDir == nil {
			l.byDir = map[string]weak.Pointer[lock.Locker]{}
		}
		l.byDir[dir] = weak.Make(locker)
		runtime.AddCleanup(locker, l.forget, dir)
	}
	return locker
}

// forget removes the entry of an unreferenced locker, unless a new one has replaced it.
func (l *lockers) forget(dir string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byDir[dir].Value() == nil {
		delete(l.byDir, dir)
	}
}

// releaseTimeout is how long Close releases locks one by one before it closes their sessions,
// which releases all of them. It is short, because a slow release means that etcd does not answer,
// and closing the sessions then takes time too.
const releaseTimeout = time.Second

// close waits until no function runs under a lock, for at most 5 s, and then releases all locks. If
// the release takes long, it continues in the background; rest waits for it.
func (l *lockers) close() (rest func() error) {
	l.mu.Lock()
	l.closed = true
	var wg sync.WaitGroup
	var errsMu sync.Mutex
	var errs []error
	var drained []<-chan struct{}
	for _, pointer := range l.byDir {
		locker := pointer.Value()
		if locker == nil {
			continue
		}
		drained = append(drained, closing.Drained(locker))
		wg.Go(func() {
			if err := locker.Close(); err != nil {
				errsMu.Lock()
				errs = append(errs, err)
				errsMu.Unlock()
			}
		})
	}
	l.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		wg.Wait()
	}()
	for _, d := range drained {
		<-d // only then may others acquire the locks
	}
	timer := time.NewTimer(releaseTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	return func() error {
		<-done
		return errors.Join(errs...)
	}
}
