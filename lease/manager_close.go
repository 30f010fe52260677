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

// closeTimeout bounds everything that is done on the server when something is closed.
const closeTimeout = 4 * time.Second

// closeContext is a context for what has to be done on the server when something ends, whatever else has ended.
func (c *core) closeContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(c.ctx), closeTimeout)
}

// Close deletes all keys of the manager and revokes the leases of all its sessions, within 4 s in all, and waits
// for what runs in the background. Contexts end with a cause that matches [ErrClosed]. It does its work once and returns
// the same result every time; an error means that leases were left to expire, and says of how many keys this is not known to
// be the end, or that the loss hook still runs. A manager made by Namespace has nothing to close.
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
	if c.hookCalls.wait(ctx) != nil {
		err = errors.Join(err, errHookRunning)
	}
	if err != nil {
		return opError("close", "", err)
	}
	return nil
}

// maxParallel is how many things are closed at the same time.
const maxParallel = 32

// forEachParallel calls f for each of all, several at a time, and returns the first few errors.
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
