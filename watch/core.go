package watch

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scan"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/internal/watchstream"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// core is the state shared by a Watcher and the watchers of its namespaces.
type core struct {
	cli    *clientv3.Client
	lister scan.Reader
	engine *retry.Engine
	pool   *watchstream.Pool

	replayBudget *replayBudget
	outages      *outages
	log          *slog.Logger
	scope        *scope.Scope
	tracked      *scope.Part
	counters     counters

	ctx               context.Context //nolint:containedctx // ends all goroutines; its cause is why
	cancel            context.CancelCauseFunc
	stopAfterFunc     func() bool
	removeOverdueHook func() // from the engine
	wg                sync.WaitGroup

	mu           sync.Mutex
	closed       bool
	broadcasters map[broadcasterKey]*broadcaster
	subscribers  map[*subscriber]struct{}
}

// counters are the counters behind Stats.
type counters struct {
	batches, events, folded, reconnects, resyncs, replays, overflows atomic.Uint64
}

func newCore(cli *clientv3.Client, c config) *core {
	kv, observed := wire.KV(cli)
	engine := retry.New(retry.Config{Client: cli, Observed: observed, Logger: c.logger, Scope: c.scope})
	out := &core{
		cli: cli, log: c.logger, scope: c.scope, engine: engine,
		lister:       retry.NewReader(engine, retry.Call{Pkg: "watch", Op: "list", Read: true}, kv),
		broadcasters: make(map[broadcasterKey]*broadcaster), subscribers: make(map[*subscriber]struct{}), replayBudget: newReplayBudget(),
		outages: newOutages(c.logger),
	}
	//nolint:forbidigo // goroutines that many callers share must not live by the context of one
	out.ctx, out.cancel = context.WithCancelCause(context.Background())
	out.pool = watchstream.NewPool(out.ctx, &out.wg, cli, engine.ReportOverdue)
	out.removeOverdueHook = engine.OnOverdue(func(string) { out.pool.CheckLive() })
	out.stopAfterFunc = context.AfterFunc(cli.Ctx(), func() { out.cancel(errClosed) })
	return out
}

// register registers a watch. It returns errClosed if the watcher or its client is closed.
func (c *core) register(s *subscriber) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.cli.Ctx().Err() != nil {
		return errClosed
	}
	c.subscribers[s] = struct{}{}
	return nil
}

// unregister unregisters a watch.
func (c *core) unregister(s *subscriber) {
	c.mu.Lock()
	delete(c.subscribers, s)
	c.mu.Unlock()
}

// acquire returns the broadcaster for a request and starts it if there is none. release must
// follow.
func (c *core) acquire(r *request) (*broadcaster, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	k := r.key()
	b := c.broadcasters[k]
	if b == nil {
		b = newBroadcaster(c, r)
		c.broadcasters[k] = b
		c.wg.Go(b.run)
	}
	b.refs++
	return b, nil
}

// release returns a broadcaster. The last release stops it.
func (c *core) release(b *broadcaster) {
	c.mu.Lock()
	b.refs--
	last := b.refs == 0
	if last && c.broadcasters[b.key] == b {
		delete(c.broadcasters, b.key)
	}
	c.mu.Unlock()
	if last {
		b.cancel()
	}
}

// remove removes a failed broadcaster, so that the next acquire starts a new one.
func (c *core) remove(b *broadcaster) {
	c.mu.Lock()
	if c.broadcasters[b.key] == b {
		delete(c.broadcasters, b.key)
	}
	c.mu.Unlock()
}

// close ends all watches and waits for the goroutines.
func (c *core) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stopAfterFunc()
	c.removeOverdueHook()
	c.cancel(errClosed)
	c.wg.Wait()
	c.tracked.Close()
}

// readHeader returns the header of a linearizable read, which has the cluster's revision. The read
// only counts key, which the user must be allowed to read.
func (c *core) readHeader(ctx context.Context, name, key string) (hdr *pb.ResponseHeader, err error) {
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

// mayHideRefusal reports whether replays that deliver nothing may have failed because a response
// exceeded the maximum size. A Watcher of the user does not report that.
func (c *core) mayHideRefusal(stalls int) bool {
	return c.pool.OverUserWatcher() && stalls >= maxStalls
}

// Backoff between attempts to open a stream, to list and to read history.
const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// newBackoff returns a new backoff.
func newBackoff() backoff.BackOff {
	b := retry.Policy{BaseDelay: minBackoff, MaxDelay: maxBackoff}.Backoff()
	b.Reset()
	return b
}
