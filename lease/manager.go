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
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/internal/sweep"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/watch"
)

// Manager grants leases and keeps those of its sessions and keys alive. It is safe for concurrent
// use. Managers derived from one another with [Manager.Namespace] share everything except the
// namespace.
type Manager struct {
	*core

	ns      string
	err     error // dir of Namespace is invalid; every call returns it
	derived bool  // made by Namespace; Close does nothing
}

// core is the state that a manager shares with those derived from it.
type core struct {
	cli             *clientv3.Client
	service         service
	clientChosenIDs bool // a grant gets the lease ID that it asks for
	kv              clientv3.KV
	engine          *retry.Engine
	log             *slog.Logger
	rootNamespace   string // namespace of the manager that New returned
	ttl             time.Duration
	scope           *scope.Scope

	ctx     context.Context //nolint:containedctx // of the manager, not of a caller
	cancel  context.CancelCauseFunc
	renewer renewer
	sweeper *sweep.Sweeper
	lost    atomic.Uint64
	tracked *scope.Part

	mu         sync.Mutex
	closed     bool
	background sync.WaitGroup // background calls that Close waits for
	pools      map[time.Duration]*pool
	watcher    *watch.Watcher       // for keys; nil before the first key
	ownWatcher *watch.Watcher       // watcher, if the manager made it
	keys       map[string]*Key      // by absolute key
	sweeps     map[string]*keySweep // by absolute key

	closeOnce sync.Once
	closeErr  error
}

// New returns a manager that uses cli, or an error that joins everything that is wrong with the
// arguments. It sends nothing. If cli.Lease is not client/v3's own, the manager sends its lease
// requests through it. Without a Lease and [WithStub], New returns [ErrInvalid].
func New(cli *clientv3.Client, opts ...Option) (*Manager, error) {
	s := options{ttl: defaultTTL}
	for _, opt := range opts {
		if opt != nil {
			opt(&s)
		}
	}
	ns, err := keyspace.Dir(s.namespace)
	err = errors.Join(err, s.retry.Validate(), wire.CheckTTL(s.ttl))
	if s.readTimeout < 0 || s.writeTimeout < 0 {
		err = errors.Join(err, fmt.Errorf("%w: negative timeout", errs.Invalid))
	}
	switch {
	case cli == nil:
		err = errors.Join(err, errNoClient)
	case cli.Lease == nil && s.stub == nil:
		err = errors.Join(err, errNoLease)
	}
	if err != nil {
		return nil, opError("new", "", err)
	}
	c := newCore(cli, s)
	c.rootNamespace = ns
	m := &Manager{core: c, ns: ns}
	c.tracked = scope.Track(s.scope, metrics, "", m.Stats)
	return m, nil
}

func newCore(cli *clientv3.Client, s options) *core {
	s.logger = s.scope.Logger(s.logger)
	c := &core{
		cli: cli, log: s.logger, ttl: s.ttl, scope: s.scope, watcher: s.watcher,
		pools: map[time.Duration]*pool{}, keys: map[string]*Key{}, sweeps: map[string]*keySweep{},
	}
	//nolint:forbidigo // the shared stream must not depend on a caller's context
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.service, c.clientChosenIDs = newService(cli, s.stub)
	kv, seen := wire.KV(cli)
	c.kv = kv
	c.engine = retry.New(retry.Config{
		Client: cli, Policy: retry.Policy(s.retry), ReadTimeout: s.readTimeout, WriteTimeout: s.writeTimeout,
		// The engine is observed only if calls of the KV and calls of the lease service both pass
		// the observer.
		Observed: seen && wire.Hardened(cli) && c.clientChosenIDs && s.stub == nil, Logger: s.logger, Scope: s.scope,
	})
	c.renewer = c.newRenewer()
	c.sweeper = c.newSweeper()
	return c
}

// Namespace returns a manager for the keys below dir. It shares the sessions and the stream of m.
// Its Close does nothing. If dir is invalid, every call returns [ErrInvalid].
func (m *Manager) Namespace(dir string) *Manager {
	ns, err := keyspace.Dir(dir)
	return &Manager{core: m.core, ns: m.ns + ns, err: errors.Join(m.err, err), derived: true}
}

// ready returns nil if the manager is valid and open.
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

// runInBackground runs f on a goroutine that Close waits for. After Close it returns false and does
// not call f.
func (c *core) runInBackground(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.background.Go(f)
	return true
}

// callContext returns a context that ends with ctx or with the manager, so that Close ends running
// calls.
func (c *core) callContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancelCause(ctx)
	forget := context.AfterFunc(c.ctx, func() { stop(context.Cause(c.ctx)) })
	return ctx, func() { forget(); stop(nil) }
}

// waitError returns the error of a caller whose ctx ended while it waited for another call of this
// process. If a deadline has passed, the error also matches errs.Unavailable and says why the
// connection is not available, if that is known.
func (c *core) waitError(ctx context.Context) error {
	err := retry.ContextError(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	err = fmt.Errorf("%w: %w", errs.Unavailable, err)
	if connErr := wire.Explain(c.cli); connErr != nil {
		err = fmt.Errorf("%w: %w", err, connErr)
	}
	return err
}

// keyWatcher returns the watcher for keys. It is the one given with WithWatcher, or one that the
// manager makes on first use and closes with itself. It is nil if the client has none.
func (c *core) keyWatcher() (*watch.Watcher, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watcher != nil || c.cli.Watcher == nil || c.closed {
		return c.watcher, nil
	}
	w, err := watch.New(c.cli, watch.WithNamespace(c.rootNamespace), watch.WithLogger(c.log))
	if err != nil {
		return nil, err
	}
	c.watcher, c.ownWatcher = w, w
	return w, nil
}
