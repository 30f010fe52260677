package cache

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// gate finds out, for all who ask at the same time, which revision etcd stands at: one read at a time, begun after
// everybody who gets its answer has come.
type gate struct {
	read  func() (rev int64, reached bool, err error)
	spawn func(f func()) bool
	late  func(ctx context.Context) error // why nobody has answered until ctx ended
	ended func() error                    // why there will be no further round

	mu      sync.Mutex
	running bool
	next    *round
}

// round is one read of the revision.
type round struct {
	done    chan struct{}
	rev     int64
	reached bool // everything up to rev was delivered and handled
	err     error
}

// wait joins the next round, and returns its revision, and whether that was reached.
func (g *gate) wait(ctx context.Context) (rev int64, reached bool, err error) {
	if err := retry.ContextError(ctx); err != nil {
		return 0, false, err
	}
	r := g.join()
	if r == nil {
		return 0, false, g.ended()
	}
	select {
	case <-r.done:
		return r.rev, r.reached, r.err
	case <-ctx.Done():
		return 0, false, g.late(ctx)
	}
}

// join returns the next round, nil where there will be none.
func (g *gate) join() *round {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.running {
		if !g.spawn(g.run) {
			return nil
		}
		g.running = true
	}
	if g.next == nil {
		g.next = &round{done: make(chan struct{})}
	}
	return g.next
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
		r.rev, r.reached, r.err = g.read()
		close(r.done)
	}
}

// anyKey is a key to ask for where the answer's revision is all that matters. It need not exist.
const anyKey = "."

// revision asks, linearizably, where the cluster stands: one RPC, which fetches nothing. Then it gives the watch a moment
// to come to that point, on behalf of all who asked.
func (f *feed) revision() (rev int64, reached bool, err error) {
	resp, err := f.store.Txn(f.ctx).Then(clientv3.OpGet(anyKey, clientv3.WithCountOnly())).Commit()
	switch {
	case f.closed():
		return 0, false, f.closedError()
	case err != nil:
		return 0, false, reason(err)
	}
	rev = resp.Header.GetRevision()
	if f.isLive() {
		ctx, stop := context.WithTimeout(f.ctx, momentLong)
		defer stop()
		reached = f.wait(ctx, rev) == nil
	}
	return rev, reached, nil
}

// momentLong is how long those who join later have to wait for a watch that does not come.
const momentLong = 250 * time.Millisecond
