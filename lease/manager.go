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

	ns      string
	err     error // what is wrong with the manager: every call returns it
	derived bool  // made by Namespace: owns nothing
}

// core is what a manager shares with those made from it.
type core struct {
	cli             *clientv3.Client
	service         service
	clientChosenIDs bool // grants get the ID that was asked for
	kv              clientv3.KV
	engine          *retry.Engine
	log             *slog.Logger
	rootNamespace   string // the namespace of the first manager
	ttl             time.Duration
	onLoss          func(cause error)

	ctx       context.Context //nolint:containedctx // of the manager: no caller's context may reach what is shared
	cancel    context.CancelCauseFunc
	renewer   renewer
	sweeper   *sweep.Sweeper
	lost      atomic.Uint64
	hookCalls activeCounter // calls of the loss hook

	mu         sync.Mutex
	closed     bool
	background sync.WaitGroup // work in the background that nobody else waits for
	pools      map[time.Duration]*pool
	watcher    *watch.Watcher       // of the keys, nil before the first
	ownWatcher *watch.Watcher       // that, where the manager has made it
	keys       map[string]*Key      // by absolute key
	sweeps     map[string]*keySweep // likewise

	closeOnce sync.Once
	closeErr  error
}

// New returns a manager over cli. It sends nothing. cli.Lease is used as it is where it is not client/v3's own.
//
// What is wrong with the options is returned by every call of the manager, since New has no error result.
func New(cli *clientv3.Client, opts ...Option) *Manager {
	s := options{ttl: defaultTTL}
	for _, opt := range opts {
		if opt != nil {
			opt(&s)
		}
	}
	ns, badDir := keyspace.Dir(s.namespace)
	bad := errors.Join(badDir, s.retry.Validate(), checkTTL(s.ttl))
	if s.readTimeout < 0 || s.writeTimeout < 0 {
		bad = errors.Join(bad, fmt.Errorf("%w: negative timeout", errs.Invalid))
	}
	switch {
	case cli == nil:
		bad = errors.Join(bad, errNoClient)
	case cli.Lease == nil && s.stub == nil:
		bad = errors.Join(bad, errNoLease)
	}
	if bad != nil {
		return &Manager{core: &core{}, err: bad, derived: true}
	}
	c := newCore(cli, s)
	c.rootNamespace = ns
	return &Manager{core: c, ns: ns}
}

func newCore(cli *clientv3.Client, s options) *core {
	s.logger = logging.OrDefault(s.logger)
	c := &core{
		cli: cli, log: s.logger, ttl: s.ttl, onLoss: s.onLoss, watcher: s.watcher,
		pools: map[time.Duration]*pool{}, keys: map[string]*Key{}, sweeps: map[string]*keySweep{},
	}
	//nolint:forbidigo // the manager's own life: no caller's metadata or deadline may reach the shared stream
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.service, c.clientChosenIDs = newService(cli, s.stub)
	kv, seen := wire.KV(cli)
	c.kv = kv
	c.engine = retry.New(retry.Config{
		Client: cli, Policy: retry.Policy(s.retry), ReadTimeout: s.readTimeout, WriteTimeout: s.writeTimeout,
		// Both what goes through the KV and what goes through the lease service has to pass the observer.
		Observed: seen && wire.Hardened(cli) && c.clientChosenIDs && s.stub == nil, Logger: s.logger, Observe: s.onRetry,
	})
	c.renewer = c.newRenewer()
	c.sweeper = c.newSweeper()
	return c
}

// Namespace returns the manager of what lies below dir. It shares the sessions and the stream; closing it closes
// nothing. What is wrong with dir is returned by every call.
func (m *Manager) Namespace(dir string) *Manager {
	ns, err := keyspace.Dir(dir)
	return &Manager{core: m.core, ns: m.ns + ns, err: errors.Join(m.err, err), derived: true}
}

// ready is nil if calls may be made.
func (m *Manager) ready() error {
	switch {
	case m.err != nil:
		return m.err
	case m.isClosed():
		return errs.ClosedError("lease manager")
	}
	return nil
}

func (c *core) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// runInBackground runs f in the background, and Close waits for it. It reports false, and does nothing, after Close.
func (c *core) runInBackground(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.background.Go(f)
	return true
}

// callContext is ctx, which ends with the manager too: no call goes on after Close. A nil ctx stays nil, and is refused.
func (c *core) callContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx == nil {
		return nil, func() {}
	}
	ctx, stop := context.WithCancelCause(ctx)
	forget := context.AfterFunc(c.ctx, func() { stop(context.Cause(c.ctx)) })
	return ctx, func() { forget(); stop(nil) }
}

// waitError is why a wait for others of this process ended with ctx: a deadline that has passed while they wait for etcd says
// what they wait for.
func (c *core) waitError(ctx context.Context) error {
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

// keyWatcher returns the watcher for the keys: the one that was given, or one of the manager's own, made when it is first
// needed and closed with the manager. It is nil where the client has none.
func (c *core) keyWatcher() *watch.Watcher {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.watcher != nil:
	case c.cli.Watcher == nil, c.closed:
	default:
		c.watcher = watch.New(c.cli, watch.WithNamespace(c.rootNamespace), watch.WithLogger(c.log))
		c.ownWatcher = c.watcher
	}
	return c.watcher
}

// callLossHook calls the user's hook, on a goroutine of its own: whoever finds a loss may hold locks, and has other
// sessions to look after.
func (c *core) callLossHook(loss error) {
	defer c.hookCalls.done()
	defer func() {
		if p := recover(); p != nil {
			c.log.ErrorContext(c.ctx, "the loss hook panicked", "panic", p)
		}
	}()
	c.onLoss(loss)
}
