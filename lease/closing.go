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

// farewell bounds everything that is done on the server when something is closed.
const farewell = 4 * time.Second

// parting is a context for what has to be done on the server when something ends, whatever else has ended.
func (c *core) parting() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(c.life), farewell)
}

// Close deletes all keys of the manager and revokes the leases of all its sessions, within 4 s in all, and waits
// for what runs in the background. Contexts end with a cause that matches [ErrClosed]. It does its work once and returns
// the same result every time; an error means that leases were left to expire, and says of how many keys this is not known to
// be the end, or that the loss hook still runs. A manager made by Namespace has nothing to close.
func (m *Manager) Close() error {
	if m.view {
		return nil
	}
	m.closing.Do(func() { m.closeErr = m.close() })
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
	c.endLife(errs.ClosedError("lease manager"))

	ctx, stop := c.parting()
	defer stop()
	err := together(keys, func(k *Key) error { return k.close(ctx) })
	err = errors.Join(err, together(c.renewer.close(), func(s *Session) error { return s.close(ctx) }))
	err = errors.Join(err, c.endSweeper(ctx))
	c.jobs.Wait()
	if c.ownWatcher != nil {
		_ = c.ownWatcher.Close() // always nil
	}
	c.renewer.wait()
	if c.hooks.wait(ctx) != nil {
		err = errors.Join(err, errHookRuns)
	}
	if err != nil {
		return opError("close", "", err)
	}
	return nil
}

// abreast is how many things are closed at the same time.
const abreast = 32

// together calls f for each of all, several at a time, and returns the first few errors.
func together[T any](all []T, f func(T) error) error {
	var (
		wg   sync.WaitGroup
		next atomic.Int64
		mu   sync.Mutex
		bad  []error
	)
	for range min(abreast, len(all)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(all)); i = next.Add(1) - 1 {
				if err := f(all[i]); err != nil {
					mu.Lock()
					bad = append(bad, withoutPrefix(err))
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	const few = 3
	if more := len(bad) - few; more > 0 {
		bad = append(bad[:few], fmt.Errorf("and %d more", more))
	}
	return errors.Join(bad...)
}
