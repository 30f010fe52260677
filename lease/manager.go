package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/logging"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/sweep"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/watch"
)

// Manager grants leases and keeps those of its sessions and keys alive. It is safe for concurrent use. Managers made
// from one another with [Manager.Namespace] share everything but the namespace.
type Manager struct {
	*core

	ns   string
	bad  error // what is wrong with the manager: every call returns it
	view bool  // made by Namespace: owns nothing
}

// core is what a manager shares with those made from it.
type core struct {
	cli     *clientv3.Client
	service service
	ownIDs  bool // grants get the ID that was asked for
	kv      clientv3.KV
	engine  *retry.Engine
	log     *slog.Logger
	root    string // the namespace of the first manager
	ttl     time.Duration
	onLoss  func(cause error)

	life    context.Context //nolint:containedctx // of the manager: no caller's context may reach what is shared
	endLife context.CancelCauseFunc
	renewer renewer
	sweeper *sweep.Sweeper
	lost    atomic.Uint64
	hooks   activeCounter // calls of the loss hook

	mu         sync.Mutex
	closed     bool
	jobs       sync.WaitGroup // work in the background that nobody else waits for
	pools      map[time.Duration]*pool
	watcher    *watch.Watcher       // of the keys, nil before the first
	ownWatcher *watch.Watcher       // that, where the manager has made it
	keys       map[string]*Key      // by absolute key
	sweeps     map[string]*keySweep // likewise

	closing  sync.Once
	closeErr error
}

// New returns a manager over cli. It sends nothing. cli.Lease is used as it is where it is not client/v3's own.
//
// What is wrong with the options is returned by every call of the manager, since New has no error result.
func New(cli *clientv3.Client, opts ...Option) *Manager {
	s := settings{ttl: defaultTTL}
	for _, opt := range opts {
		if opt != nil {
			opt(&s)
		}
	}
	ns, badDir := keyspace.Dir(s.namespace)
	bad := errors.Join(badDir, s.retry.Validate(), checkTTL(s.ttl))
	if s.read < 0 || s.write < 0 {
		bad = errors.Join(bad, fmt.Errorf("%w: negative timeout", errs.Invalid))
	}
	switch {
	case cli == nil:
		bad = errors.Join(bad, errNoClient)
	case cli.Lease == nil && s.stub == nil:
		bad = errors.Join(bad, errNoLease)
	}
	if bad != nil {
		return &Manager{core: &core{}, bad: bad, view: true}
	}
	c := newCore(cli, s)
	c.root = ns
	return &Manager{core: c, ns: ns}
}

func newCore(cli *clientv3.Client, s settings) *core {
	s.logger = logging.OrDefault(s.logger)
	c := &core{
		cli: cli, log: s.logger, ttl: s.ttl, onLoss: s.onLoss, watcher: s.watcher,
		pools: map[time.Duration]*pool{}, keys: map[string]*Key{}, sweeps: map[string]*keySweep{},
	}
	//nolint:forbidigo // the manager's own life: no caller's metadata or deadline may reach the shared stream
	c.life, c.endLife = context.WithCancelCause(context.Background())
	c.service, c.ownIDs = newService(cli, s.stub)
	kv, seen := wire.KV(cli)
	c.kv = kv
	c.engine = retry.New(retry.Config{
		Client: cli, Policy: retry.Policy(s.retry), ReadTimeout: s.read, WriteTimeout: s.write,
		// Both what goes through the KV and what goes through the lease service has to pass the observer.
		Observed: seen && wire.Hardened(cli) && c.ownIDs && s.stub == nil, Logger: s.logger, Observe: s.onRetry,
	})
	c.renewer = c.newRenewer()
	c.sweeper = c.newSweeper()
	return c
}

// Namespace returns the manager of what lies below dir. It shares the sessions and the stream; closing it closes
// nothing. What is wrong with dir is returned by every call.
func (m *Manager) Namespace(dir string) *Manager {
	below, err := keyspace.Dir(dir)
	return &Manager{core: m.core, ns: m.ns + below, bad: errors.Join(m.bad, err), view: true}
}

// ready is nil if calls may be made.
func (m *Manager) ready() error {
	switch {
	case m.bad != nil:
		return m.bad
	case m.gone():
		return errs.ClosedError("lease manager")
	}
	return nil
}

func (c *core) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// job runs f in the background, and Close waits for it. It reports false, and does nothing, after Close.
func (c *core) job(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.jobs.Go(f)
	return true
}

// until is ctx, which ends with the manager too: no call goes on after Close. A nil ctx stays nil, and is refused.
func (c *core) until(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx == nil {
		return nil, func() {}
	}
	ctx, stop := context.WithCancelCause(ctx)
	forget := context.AfterFunc(c.life, func() { stop(context.Cause(c.life)) })
	return ctx, func() { forget(); stop(nil) }
}

// gaveUp is why a wait for others of this process ended with ctx: a deadline that has passed while they wait for etcd says
// what they wait for.
func (c *core) gaveUp(ctx context.Context) error {
	err := retry.ContextError(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	err = fmt.Errorf("%w: %w", errs.Unavailable, err)
	if why := wire.Explain(c.cli); why != nil {
		err = fmt.Errorf("%w: %w", err, why)
	}
	return err
}
