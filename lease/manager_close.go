package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// closeTimeout bounds all requests that Close methods send.
const closeTimeout = 4 * time.Second

// closeContext returns a context for the requests of a Close method. It does not end with the
// manager's context.
func (c *core) closeContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(c.ctx), closeTimeout)
}

// Close deletes all keys of the manager, revokes the leases of all its sessions, within 4 s in all,
// and waits for the background goroutines. Contexts end with a cause that matches [ErrClosed].
// Further calls return the result of the first one. An error means that leases were left to expire,
// in which case it says how many keys may remain until then, or that a hook of the observer
// has not returned. On a manager made by Namespace, Close does nothing.
func (m *Manager) Close() error {
	if m.derived {
		return nil
	}
	m.closeOnce.Do(func() { m.closeErr = m.close() })
	return m.closeErr
}

func (c *core) close() error {
	c.mu.Lock()
	c.closed = true
	keys := make([]*Key, 0, len(c.keys))
	for _, k := range c.keys {
		keys = append(keys, k)
	}
	c.mu.Unlock()
	c.cancel(errs.ClosedError("lease manager"))

	ctx, stop := c.closeContext()
	defer stop()
	err := forEachParallel(keys, func(k *Key) error { return k.close(ctx) })
	err = errors.Join(err, forEachParallel(c.renewer.close(), func(s *Session) error { return s.close(ctx) }))
	err = errors.Join(err, c.closeSweeper(ctx))
	c.background.Wait()
	if c.ownWatcher != nil {
		_ = c.ownWatcher.Close() // always nil
	}
	c.renewer.wait()
	if c.scope.WaitHooks(ctx) != nil {
		err = errors.Join(err, errHookRunning)
	}
	c.tracked.Close()
	if err != nil {
		return opError("close", "", err)
	}
	return nil
}

// maxParallel is how many keys, sessions or leases are closed at the same time.
const maxParallel = 32

// forEachParallel calls f for each item, up to maxParallel at a time, and returns the first few
// errors.
func forEachParallel[T any](items []T, f func(T) error) error {
	var (
		wg       sync.WaitGroup
		next     atomic.Int64
		mu       sync.Mutex
		failures []error
	)
	for range min(maxParallel, len(items)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(items)); i = next.Add(1) - 1 {
				if err := f(items[i]); err != nil {
					mu.Lock()
					failures = append(failures, withoutPrefix(err))
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	const maxErrors = 3
	if omitted := len(failures) - maxErrors; omitted > 0 {
		failures = append(failures[:maxErrors], fmt.Errorf("and %d more", omitted))
	}
	return errors.Join(failures...)
}
