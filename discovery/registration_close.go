package discovery

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/lease"
)

// markTimeout bounds the attempt of Close to mark the instance as draining.
const markTimeout = 500 * time.Millisecond

// Close removes the instance from etcd, unless another process has taken its key, within about 5 s.
// It first marks the instance as draining, so that views know that it leaves on purpose. It costs
// two RPCs, or one after Drain. After an error, the key is deleted in the background within 5 s of
// etcd's return, and at the latest when its lease expires. Close is idempotent and always returns
// the same result.
//
// Close of a registration by [Registry.RegisterGRPC] drains first and then stops its server.
func (g *Registration) Close() error {
	g.closing.Do(func() {
		g.mu.Lock()
		g.closed = true
		owns := g.ownsServer
		g.mu.Unlock()
		g.cancelOpening()
		if owns {
			g.markDraining(g.options.drainDelay, g.options.drainDelay+markTimeout)
		} else {
			g.markDraining(0, markTimeout)
		}
		g.cancel(errs.ClosedError("registration"))
		<-g.opened
		if err := forEach(g.keys, (*registrationKey).close); err != nil {
			i := g.desired()
			g.closeErr = opError("close", i.Service+"/"+i.ID, err)
		}
		g.registry.remove(g)
		if owns {
			g.stopServer()
		}
	})
	return g.closeErr
}

// cancelOpening ends the retries of WithoutWaiting if no key was created yet.
func (g *Registration) cancelOpening() {
	for _, k := range g.keys {
		if _, _, held := k.get(); held != nil {
			return
		}
	}
	g.cancel(errs.ClosedError("registration"))
}

// markDraining marks the instance as draining under all its keys and, if that succeeded, waits for
// delay. Failures are ignored: they are no reason not to leave.
func (g *Registration) markDraining(delay, timeout time.Duration) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(g.ctx), timeout)
	defer stop()
	var marked atomic.Bool
	_ = forEach(g.keys, func(k *registrationKey) error {
		if k.state() == lease.Alive && k.change(ctx, setDraining) == nil {
			marked.Store(true)
		}
		return nil
	})
	if marked.Load() {
		_ = g.waitDrainDelay(ctx, delay)
	}
}

// stopServer stops the server gracefully, and forcibly after the stop timeout.
func (g *Registration) stopServer() {
	done := make(chan struct{})
	go func() {
		g.server.GracefulStop()
		close(done)
	}()
	timer := time.NewTimer(g.options.stopTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		g.server.Stop() // makes GracefulStop return
		<-done
	}
}
