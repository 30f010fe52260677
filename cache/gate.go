package cache

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// gate reads the current revision of etcd. There is one read at a time, and each read serves only
// callers that arrived before it started. A caller that finds none in progress reads on its own
// goroutine, because waking another one takes about a tenth of the time of the read. Callers that
// arrive meanwhile share the next read, which does not depend on the context of any of them.
type gate struct {
	read  func(ctx context.Context) (rev int64, reached bool, err error)
	life  context.Context //nolint:containedctx // bounds all reads
	spawn func(f func()) bool
	late  func(ctx context.Context) error // returns the error for a wait that ended with ctx
	ended func() error                    // returns the error after the feed has closed

	mu      sync.Mutex
	running bool
	next    *round
}

// round is one read of the revision, shared by all callers that wait for it.
type round struct {
	done    chan struct{}
	rev     int64
	reached bool // everything up to rev was delivered and handled
	err     error
}

// wait returns the revision of a read that starts after the call, and whether the watch has reached
// it.
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

// join returns the next round. It returns nil if no read is in progress: then the caller must make
// one and call runNext afterwards.
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

// readAlone reads for one caller, until ctx or life ends.
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

// runNext starts the round for callers that arrived during readAlone.
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

// run makes rounds while there are waiting callers.
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

// anyKey is the key of a read of which only the revision matters. It need not exist.
const anyKey = "."

// revision makes a linearizable read of the current revision: one RPC, which returns no values.
// Then it waits a short time for the watch to reach that revision.
func (f *feed) revision(ctx context.Context) (rev int64, reached bool, err error) {
	rev, err = f.readRevision(ctx)
	switch {
	case f.closed():
		return 0, false, f.closedError()
	case err != nil:
		return 0, false, errs.Cause(err)
	}
	if f.isLive() {
		ctx, stop := context.WithTimeout(ctx, momentLong)
		defer stop()
		reached = f.wait(ctx, rev) == nil
	}
	return rev, reached, nil
}

// readRevision counts a key. The header of the response contains the current revision.
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

// momentLong bounds that wait, because callers of the next round wait for it too.
const momentLong = 250 * time.Millisecond
