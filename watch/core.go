package watch

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scan"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// core is the state shared by a Watcher and the watchers of its namespaces.
type core struct {
	cli    *clientv3.Client
	lister scan.Reader
	engine *retry.Engine
	pool   *pool

	replays *replayBudget
	outages *outages
	log     *slog.Logger
	resync  func(selector string, folded int)
	counts  counts

	ctx    context.Context //nolint:containedctx // ends all goroutines; its cause is why
	stop   context.CancelCauseFunc
	unlink func() bool
	unhook func() // from the engine
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	hubs   map[hubKey]*hub
	subs   map[*sub]struct{}
}

// counts are the counters behind Stats.
type counts struct {
	batches, events, folded, reconnects, resyncs, replays, overflows atomic.Uint64
}

func newCore(cli *clientv3.Client, c config) *core {
	kv, observed := wire.KV(cli)
	engine := retry.New(retry.Config{Client: cli, Observed: observed, Logger: c.logger})
	out := &core{
		cli: cli, log: c.logger, resync: c.resync, engine: engine,
		lister: retry.NewReader(engine, retry.Call{Pkg: "watch", Op: "list", Read: true}, kv),
		hubs:   make(map[hubKey]*hub), subs: make(map[*sub]struct{}), replays: newReplayBudget(),
		outages: newOutages(c.logger),
	}
	//nolint:forbidigo // goroutines that many callers share must not live by the context of one
	out.ctx, out.stop = context.WithCancelCause(context.Background())
	out.pool = newPool(out.ctx, &out.wg, cli)
	out.pool.dead = engine.ReportOverdue
	out.unhook = engine.OnOverdue(func(string) { out.pool.need() })
	out.unlink = context.AfterFunc(cli.Ctx(), func() { out.stop(errClosed) })
	return out
}

// begin registers a watch. It returns errClosed if the watcher or its client is closed.
func (c *core) begin(s *sub) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.cli.Ctx().Err() != nil {
		return errClosed
	}
	c.subs[s] = struct{}{}
	return nil
}

// end unregisters a watch.
func (c *core) end(s *sub) {
	c.mu.Lock()
	delete(c.subs, s)
	c.mu.Unlock()
}

// acquire returns the hub for a request and starts it if there is none. release must follow.
func (c *core) acquire(r *request) (*hub, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	k := r.key()
	h := c.hubs[k]
	if h == nil {
		h = newHub(c, r)
		c.hubs[k] = h
		c.wg.Go(h.run)
	}
	h.refs++
	return h, nil
}

// release returns a hub. The last release stops it.
func (c *core) release(h *hub) {
	c.mu.Lock()
	h.refs--
	last := h.refs == 0
	if last && c.hubs[h.key] == h {
		delete(c.hubs, h.key)
	}
	c.mu.Unlock()
	if last {
		h.stop()
	}
}

// forget removes a failed hub, so that the next acquire starts a new one.
func (c *core) forget(h *hub) {
	c.mu.Lock()
	if c.hubs[h.key] == h {
		delete(c.hubs, h.key)
	}
	c.mu.Unlock()
}

// close ends all watches and waits for the goroutines.
func (c *core) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.unlink()
	c.unhook()
	c.stop(errClosed)
	c.wg.Wait()
}

// now returns the header of a linearizable read, which has the cluster's revision. The read only
// counts key, which the user must be allowed to read.
func (c *core) now(ctx context.Context, name, key string) (hdr *pb.ResponseHeader, err error) {
	err = c.engine.Do(ctx, c.call("read the revision", name), func(ctx context.Context, _ bool) error {
		resp, err := c.lister.Get(ctx, key, clientv3.WithCountOnly())
		if err == nil {
			hdr = resp.Header
		}
		return err
	})
	return hdr, err
}

func (c *core) call(op, name string) retry.Call {
	return retry.Call{Pkg: "watch", Op: op, Key: name, Read: true}
}

// spawn starts a goroutine that close waits for. It reports false, and starts nothing, if the core
// is closed.
func (c *core) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(f)
	return true
}
