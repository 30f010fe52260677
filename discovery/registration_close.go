package discovery

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/lease"
)

// markTimeout is how long Close tries to say that the instance leaves of its own will.
const markTimeout = 500 * time.Millisecond

// Close takes the instance out of etcd, if it is its own that is there, within about 5 s. First it marks it as draining, for
// views to know that it leaves of its own will: one RPC, none after Drain, and one more for the deletion. After an error the
// key is deleted in the background, within 5 s of etcd answering again, and goes with its lease at the latest. It does so once and
// returns the same result every time.
//
// A registration of [Registry.RegisterGRPC] drains first, and stops its server afterwards.
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

// cancelOpening ends what WithoutWaiting still tries where nothing has succeeded.
func (g *Registration) cancelOpening() {
	for _, p := range g.keys {
		if _, _, held := p.get(); held != nil {
			return
		}
	}
	g.cancel(errs.ClosedError("registration"))
}

// markDraining marks the instance as draining wherever it is in etcd, and waits if it could. That it cannot is no reason not to
// leave.
func (g *Registration) markDraining(delay, bound time.Duration) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(g.ctx), bound)
	defer stop()
	var marked atomic.Bool
	_ = forEach(g.keys, func(p *registrationKey) error {
		if p.state() == lease.Alive && p.change(ctx, setDraining) == nil {
			marked.Store(true)
		}
		return nil
	})
	if marked.Load() {
		_ = g.waitDrainDelay(ctx, delay)
	}
}

// stopServer lets the server finish what it has begun, for a while.
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
		g.server.Stop() // which makes GracefulStop return
		<-done
	}
}
