package etcdkit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/etcdkit/etcdkit/internal/auth"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/raw"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/internal/zapslog"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

// Client is a connection to etcd with the packages that work over it. [Open], [OpenLazy] and [Wrap]
// create one; a process usually needs only one. It is safe for concurrent use.
type Client struct {
	*core

	store   *kv.Store
	leases  *lease.Manager
	watcher *watch.Watcher

	below  string // the dir relative to the configured namespace, for reports
	view   bool   // created by Namespace: owns nothing
	badDir bool   // created with an invalid dir
}

// core is the state shared by a client and the clients that Namespace derives from it.
type core struct {
	set    *settings
	cli    *clientv3.Client
	own    bool                // close closes cli
	auth   *auth.Authenticator // nil without credentials
	lines  *lines
	engine *retry.Engine // of the decorated client; nil after Wrap
	patrol *patrol       // nil after Wrap, whose caller owns the endpoints

	versions *versionChecker
	sync     *endpointSync // nil without WithEndpointSync

	lockers lockers

	stop     context.CancelFunc // ends all background work
	closed   atomic.Bool
	closing  sync.Once
	closeErr error
}

// Harden prepares the configuration of a client that is to be passed to [Wrap], so that all
// guarantees about writes hold for it. It configures:
//
//   - one attempt per call on the wire instead of up to a hundred
//   - an exact answer to whether a request was sent
//   - require-leader on calls that need it
//   - keepalive pings of 10s / 4s if none are configured
//   - a new connection attempt at least every 2s, which DialOptions of the caller may change
//
// Harden sets MaxUnaryRetries, adds to DialOptions and keeps everything else. It returns an error
// that matches [ErrInvalid] if cfg contradicts these settings. It is idempotent.
func Harden(cfg *clientv3.Config) error {
	if err := wire.Harden(cfg); err != nil {
		return refuse("harden", err)
	}
	return nil
}

// Wrap creates a client from a client/v3 client that the caller continues to own: Close does not
// close cli. The fields of cli are used as they are, decorated or not.
//
// Without [Harden] a write is still sent only once, but its outcome is unknown more often. Wrap
// does not evict members: one that is frozen stays in use, and second attempts of slow calls may
// reach it again.
//
// A client without a KV or a Lease is invalid, and so is one without a connection and a Watcher.
//
// Wrap sends nothing and does not change the endpoints of cli. The first Health, Members or
// Diagnose checks the versions of the members and logs a warning for each one that is not
// supported. While Health, Members or Diagnose runs, SetEndpoints of cli must not be called: they
// connect to single endpoints with Dial of cli, which reads the endpoints without a lock.
//
// WithTLS, WithCredentials, WithDialOptions and WithEndpointSync are invalid, because cli already
// exists.
func Wrap(cli *clientv3.Client, opts ...Option) (*Client, error) {
	s := &settings{options: newOptions(opts)}
	if cli == nil {
		s.bad.add("no client")
	}
	for _, name := range s.notForWrap {
		s.bad.add("%s has no effect on a client that is made already", name)
	}
	s.setNamespace(&s.bad)
	if err := s.bad.err("wrap"); err != nil {
		return nil, err
	}
	s.cfg = Config{Endpoints: cli.Endpoints(), Namespace: s.namespace}
	c := &core{set: s, cli: cli, lines: &lines{dial: wrapped(cli)}, stop: func() {}}
	c.versions = &versionChecker{fetch: c.lines.fetchStatus, logger: s.logger}
	client, err := c.client()
	if err != nil {
		return nil, refuse("wrap", err)
	}
	return client, nil
}

// newCore creates the client/v3 client, which connects on first use.
func newCore(s *settings) (*core, error) {
	//nolint:forbidigo // the client's own life: ends with Close, and no caller's context may reach shared connections
	ctx, stop := context.WithCancel(context.Background())
	cfg := clientv3.Config{
		Endpoints:            s.endpoints,
		DialTimeout:          time.Duration(s.cfg.DialTimeout),
		DialKeepAliveTime:    time.Duration(s.cfg.KeepAlive.Time),
		DialKeepAliveTimeout: time.Duration(s.cfg.KeepAlive.Timeout),
		TLS:                  s.tls,
		Context:              ctx,
		MaxCallSendMsgSize:   sendBytes(s.limits),
		Logger:               zapslog.New(s.logger),
		DialOptions:          []grpc.DialOption{wire.WithoutInterceptor()},
	}
	c := &core{set: s, own: true, stop: stop}
	err := wire.Harden(&cfg)
	if err == nil {
		c.auth = newAuthenticator(ctx, s)
		if c.auth != nil {
			cfg.DialOptions = append(cfg.DialOptions, c.auth.DialOptions()...)
		}
		if s.tls != nil && s.tls.ServerName != "" {
			// ServerName alone has no effect: client/v3 passes the endpoint's name to gRPC.
			cfg.DialOptions = append(cfg.DialOptions, grpc.WithAuthority(s.tls.ServerName))
		}
		if s.roots != nil { // applied last: replaces the credentials that client/v3 derives from s.tls
			cfg.DialOptions = append(cfg.DialOptions, grpc.WithTransportCredentials(&reloadingCredentials{s.tls, s.roots}))
		}
		cfg.DialOptions = append(cfg.DialOptions, s.dial...)
		c.lines = &lines{dial: direct(cfg), tls: s.tls, roots: s.roots}
		c.cli, err = clientv3.New(cfg)
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c.decorate()
	c.versions = &versionChecker{fetch: c.lines.fetchStatus, logger: s.logger}
	c.patrol = newPatrol(c.cli, c.lines.probe, c.lines.keep, c.versions, s.logger)
	c.patrol.isDown = func() bool { return c.cli.ActiveConnection().GetState() == connectivity.TransientFailure }
	c.patrol.isBroken = c.lines.isBroken
	c.patrol.failed = func(ep string) { c.engine.ReportOverdue(c.lines.addressOf(ep)) }
	c.engine.OnOverdue(func(addr string) { c.patrol.overdue(c.lines.endpointAt(addr)) })
	c.patrol.read = func(ctx context.Context, ep string) error { return c.read(ctx, ep, s.namespace+probeKey) }
	return c, nil
}

// sendBytes returns the send limit for client/v3. It is 0, which selects client/v3's default,
// unless the cluster accepts larger requests.
func sendBytes(l kv.Limits) int {
	const usual, beside = 2 << 20, 512 << 10 // as in client/v3: its default, and the overhead of a message beside keys and values
	if l.RequestBytes <= usual-beside {
		return 0
	}
	return l.RequestBytes + beside
}

// decorate adds safe retries and token renewal to the client that Raw returns. The stores do not
// use the decorated fields.
func (c *core) decorate() {
	cfg := c.set.cfg
	c.engine = retry.New(retry.Config{
		Client: c.cli, Observed: true, Members: hedgeMembers{c}, Policy: retry.Policy(cfg.Retry), Logger: c.set.logger, OnRetry: c.set.observer.Retry,
		ReadTimeout: time.Duration(cfg.ReadTimeout), WriteTimeout: time.Duration(cfg.WriteTimeout),
	})
	raw.Install(c.cli, c.engine, c.auth != nil && c.auth.IsRenewable())
}

// newAuthenticator returns the source of tokens, or nil if calls need none.
func newAuthenticator(ctx context.Context, s *settings) *auth.Authenticator {
	switch {
	case s.token != "":
		token := s.token
		s.token = "" // only the authenticator keeps it
		return auth.NewFixedToken(token)
	case s.credentials != nil:
		return auth.New(ctx, s.credentials, time.Duration(s.cfg.DialTimeout), s.logger)
	}
	return nil
}

// client returns the client for the configured namespace. Its parts send nothing until they are
// used.
func (c *core) client() (*Client, error) {
	cfg, log, obs := c.set.cfg, c.set.logger, c.set.observer
	read, write := time.Duration(cfg.ReadTimeout), time.Duration(cfg.WriteTimeout)
	leases := []lease.Option{
		lease.WithNamespace(c.set.namespace), lease.WithTimeouts(read, write), lease.WithRetry(cfg.Retry),
		lease.WithLogger(log), lease.WithRetryHook(obs.Retry), lease.WithLossHook(obs.LeaseLost),
	}
	if cfg.SessionTTL != 0 { // zero after Wrap, which uses lease's own default
		leases = append(leases, lease.WithSessionTTL(time.Duration(cfg.SessionTTL)))
	}
	watcher, watcherErr := watch.New(c.cli, watch.WithNamespace(c.set.namespace), watch.WithLogger(log), watch.WithResyncHook(obs.WatchResync))
	manager, managerErr := lease.New(c.cli, append(leases, lease.WithWatcher(watcher))...)
	store, storeErr := kv.New(c.cli,
		kv.WithNamespace(c.set.namespace), kv.WithTimeouts(read, write), kv.WithRetry(cfg.Retry), kv.WithLimits(c.set.limits),
		kv.WithLogger(log), kv.WithRetryHook(obs.Retry))
	err := errors.Join(reasonOf(storeErr), reasonOf(managerErr), reasonOf(watcherErr))
	if err == nil {
		return &Client{core: c, store: store, leases: manager, watcher: watcher}, nil
	}
	if manager != nil {
		err = errors.Join(err, manager.Close())
	}
	if watcher != nil {
		err = errors.Join(err, watcher.Close())
	}
	return nil, errors.Join(err, c.close())
}

// KV returns the store of the client's namespace. Every call returns the same one.
func (c *Client) KV() *kv.Store { return c.store }

// Leases returns the manager that grants leases and keeps sessions and keys alive in the client's
// namespace. Every call returns the same one. Its shared session, which the other packages also
// use, has the TTL Config.SessionTTL and is opened on first use.
func (c *Client) Leases() *lease.Manager { return c.leases }

// Watcher returns the watcher of the client's namespace. Every call returns the same one. All
// namespaces share its streams.
func (c *Client) Watcher() *watch.Watcher { return c.watcher }

// Namespace returns a client for dir, which is relative to the client's own namespace. It uses the
// same connection, session and watch streams, and its Close does nothing. If dir is invalid, every
// call of its parts returns [ErrInvalid].
func (c *Client) Namespace(dir string) *Client {
	below, err := keyspace.Dir(dir) // the parts report the error
	return &Client{
		core: c.core, store: c.store.Namespace(dir), leases: c.leases.Namespace(dir), watcher: c.watcher.Namespace(dir),
		below: c.below + below, view: true, badDir: c.badDir || err != nil,
	}
}

// Raw returns the client/v3 client, outside the namespace. If Open or OpenLazy created the client,
// its KV and Lease repeat requests that are safe to repeat, and its Watcher reopens a watch whose
// token etcd no longer accepts; errors, deadlines and everything else are those of client/v3. After
// Wrap, Raw returns the wrapped client unchanged.
func (c *Client) Raw() *clientv3.Client { return c.cli }

// endpoints returns all endpoints, including evicted ones.
func (c *core) endpoints() []string {
	if c.patrol != nil {
		return c.patrol.endpoints()
	}
	return c.cli.Endpoints()
}

// Close releases the client's locks, removes the keys it keeps, revokes its sessions and ends its
// watches. It then stops the background work and closes the connections; calls in progress return
// [ErrClosed]. Close takes at most about 5 s, even if etcd does not answer, and up to 5 s more if a
// function that runs under a lock does not return.
//
// Close is idempotent and returns the same result every time. An error of package lease or lock
// means that leases, with the keys attached to them, were left to expire: log it, but do not treat
// it as a failure. Close of a client created by Namespace does nothing.
func (c *Client) Close() error {
	if c.view {
		return nil
	}
	c.closing.Do(func() {
		c.closed.Store(true)
		locks := c.lockers.close()
		leases := c.leases.Close()
		c.closeErr = errors.Join(locks(), leases, c.watcher.Close(), c.close())
	})
	return c.closeErr
}

// isClosed reports whether the client or the client/v3 client is closed.
func (c *core) isClosed() bool { return c.closed.Load() || c.cli.Ctx().Err() != nil }

// close stops the patrol and logins before it closes the connections they use.
func (c *core) close() error {
	c.stop() // also ends the context of cli, and so all calls
	if c.patrol != nil {
		c.patrol.wait()
	}
	if c.sync != nil {
		<-c.sync.done
	}
	if c.auth != nil {
		c.auth.Wait()
	}
	err := c.lines.close()
	if !c.own {
		return err
	}
	if cerr := c.cli.Close(); cerr != nil && !closedAlready(cerr) {
		return refuse("close", cerr)
	}
	return err
}
