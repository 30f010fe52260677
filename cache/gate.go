package cache

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// gate finds out which revision etcd stands at. There is one read at a time, and each read serves only
// callers that arrived before it started. A caller that finds none under way reads for itself, on its
// own goroutine: waking another one takes about a tenth of the time of the read. Those that arrive
// meanwhile share the next read, which does not depend on the context of any of them.
type gate struct {
	read  func(ctx context.Context) (rev int64, reached bool, err error)
	life  context.Context //nolint:containedctx // reads end with it
	spawn func(f func()) bool
	late  func(ctx context.Context) error // why nobody has answered until ctx ended
	ended func() error                    // why there will be no further round

	mu      sync.Mutex
	running bool
	next    *round
}

// round is one read of the revision for all who wait for it.
type round struct {
	done    chan struct{}
	rev     int64
	reached bool // everything up to rev was delivered and handled
	err     error
}

// wait returns the revision of a read that begins after the call, and whether the watch has reached it.
func (g *gate) wait(ctx context.Context) (rev int64, reached bool, err error) {
	if err := retry.ContextError(ctx); err != nil {
		return 0, false, err
	}
	r := g.join()
	if r == nil {
		return g.readAlone(ctx)
	}
	select {
	case <-r.done:
		return r.rev, r.reached, r.err
	case <-ctx.Done():
		return 0, false, g.late(ctx)
	}
}

// join returns the next round, or nil if no read is under way: then the caller makes one, and calls runNext after it.
func (g *gate) join() *round {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.running {
		g.running = true
		return nil
	}
	if g.next == nil {
		g.next = &round{done: make(chan struct{})}
	}
	return g.next
}

// readAlone reads for one caller, until ctx or the life of the gate ends.
func (g *gate) readAlone(ctx context.Context) (rev int64, reached bool, err error) {
	defer g.runNext()
	if g.life.Err() != nil {
		return 0, false, g.ended()
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(g.life, stop)()
	return g.read(ctx)
}

// runNext starts the round of those that arrived while a caller read for itself.
func (g *gate) runNext() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next != nil && g.spawn(g.run) {
		return
	}
	if r := g.next; r != nil {
		r.err = g.ended()
		close(r.done)
	}
	g.next, g.running = nil, false
}

// run makes rounds as long as somebody waits for one.
func (g *gate) run() {
	for {
		g.mu.Lock()
		r := g.next
		g.next = nil
		if r == nil {
			g.running = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		r.rev, r.reached, r.err = g.read(g.life)
		close(r.done)
	}
}

// anyKey is a key to ask for where the answer's revision is all that matters. It need not exist.
const anyKey = "."

// revision asks, linearizably, where the cluster stands: one RPC, which fetches nothing. Then it gives the watch a moment
// to come to that point.
func (f *feed) revision(ctx context.Context) (rev int64, reached bool, err error) {
	rev, err = f.readRevision(ctx)
	switch {
	case f.closed():
		return 0, false, f.closedError()
	case err != nil:
		return 0, false, reason(err)
	}
	if f.isLive() {
		ctx, stop := context.WithTimeout(ctx, momentLong)
		defer stop()
		reached = f.wait(ctx, rev) == nil
	}
	return rev, reached, nil
}

// readRevision counts a key. The header of the response has the revision at which that was done.
func (f *feed) readRevision(ctx context.Context) (rev int64, err error) {
	sender, err := retry.SenderOf(f.store)
	if err != nil {
		return 0, err
	}
	call := retry.Call{Pkg: "cache", Op: "read revision", Dir: f.store.Dir(), Key: anyKey, Read: true}
	get := clientv3.OpGet(call.Dir+anyKey, clientv3.WithCountOnly())
	return retry.Do(ctx, sender.Engine, call, func(ctx context.Context, _ bool) (int64, error) {
		resp, err := sender.KV.Do(ctx, get)
		if err != nil {
			return 0, err
		}
		return resp.Get().Header.GetRevision(), nil
	})
}

// momentLong is how long those who join later have to wait for a watch that does not come.
const momentLong = 250 * time.Millisecond
