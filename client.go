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

	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/raw"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/internal/zapslog"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

// Client is a connection to etcd and the parts that work over it. [Open], [OpenLazy] or [Wrap] make one, usually one for
// a process. It is safe for concurrent use.
type Client struct {
	*core

	store   *kv.Store
	leases  *lease.Manager
	watcher *watch.Watcher

	below  string // the dir below the configured namespace, for reports
	view   bool   // made by Namespace: owns nothing
	badDir bool   // made with a dir that is none
}

// core is what a client shares with those made from it by Namespace.
type core struct {
	set    *settings
	cli    *clientv3.Client
	own    bool   // cli is closed with the client
	login  *login // nil without credentials
	lines  *lines
	engine *retry.Engine // of the decorated client; nil after Wrap
	patrol *patrol       // nil where the endpoints are not the client's to choose

	versions *versionChecker
	sync     *endpointSync // nil without WithEndpointSync

	lockers lockers

	stop     context.CancelFunc // ends everything that runs in the background
	closed   atomic.Bool
	closing  sync.Once
	closeErr error
}

// Harden prepares the configuration of a client of your own that [Wrap] will be given, so that every promise about
// writes holds over it: one attempt per call on the wire instead of up to a hundred, an exact answer to whether a
// request was sent, require-leader on calls that need one, keepalive pings of 10s / 4s where none are configured, and a
// new attempt to connect every 2s at least, which DialOptions of your own may change. It sets MaxUnaryRetries, adds to
// DialOptions, keeps the rest, and refuses, with an error that matches [ErrInvalid], what contradicts it. Doing it twice
// is doing it once.
func Harden(cfg *clientv3.Config) error {
	if err := wire.Harden(cfg); err != nil {
		return refuse("harden", err)
	}
	return nil
}

// Wrap makes a client over one that you made and go on owning: closing the result leaves cli open. Its fields, decorated
// or not, are used as they are. Without [Harden] writes are still sent once only, but their outcome is unknown more often.
// Nobody checks the members: one that is frozen stays in use, and second attempts of slow calls may meet it again.
// Wrap sends nothing and does not touch the endpoints of cli. The first Health, Members or Diagnose checks the versions of
// the members and logs a warning for one that is not supported. While Health, Members or Diagnose run, nobody should call
// SetEndpoints of cli: they connect to single endpoints with its Dial, which reads the endpoints without a lock.
//
// WithTLS, WithCredentials and WithDialOptions are refused, since cli is made already.
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
		return nil, refuse("wrap", reasonOf(err))
	}
	return client, nil
}

// newCore makes the client below, which connects when it is first used.
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
		c.login = newLogin(ctx, s)
		if c.login != nil {
			cfg.DialOptions = append(cfg.DialOptions, c.login.dialOptions()...)
		}
		if s.tls != nil && s.tls.ServerName != "" {
			// The name in the TLS settings alone has no effect: client/v3 gives gRPC that of the endpoint.
			cfg.DialOptions = append(cfg.DialOptions, grpc.WithAuthority(s.tls.ServerName))
		}
		if s.roots != nil { // these come after, and replace, the credentials that client/v3 makes of s.tls
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
	c.patrol.failed = func(ep string) { c.engine.Overdue(c.lines.addressOf(ep)) }
	c.engine.OnOverdue(func(addr string) { c.patrol.overdue(c.lines.endpointAt(addr)) })
	c.patrol.read = func(ctx context.Context, ep string) error { return c.read(ctx, ep, s.namespace+probeKey) }
	return c, nil
}

// sendBytes is what client/v3 may send at once: 0, its own default, unless the cluster takes more than that.
func sendBytes(l kv.Limits) int {
	const usual, beside = 2 << 20, 512 << 10 // as client/v3 has it: room for what a message has beside keys and values
	if l.RequestBytes <= usual-beside {
		return 0
	}
	return l.RequestBytes + beside
}

// decorate lets code over Raw have safe retries and fresh logins as well. The stores work on what is below.
func (c *core) decorate() {
	cfg := c.set.cfg
	c.engine = retry.New(retry.Config{
		Client: c.cli, Observed: true, Members: hedgeMembers{c}, Policy: retry.Policy(cfg.Retry), Logger: c.set.logger, Observe: c.set.observer.Retry,
		ReadTimeout: time.Duration(cfg.ReadTimeout), WriteTimeout: time.Duration(cfg.WriteTimeout),
	})
	raw.Install(c.cli, c.engine, c.login != nil && c.login.source != nil)
}

// newLogin returns what gives calls their token, nil when they need none.
func newLogin(ctx context.Context, s *settings) *login {
	switch {
	case s.token != "":
		token := s.token
		s.token = "" // the login alone holds it from here on
		return fixedToken(token)
	case s.credentials != nil:
		return sourcedLogin(ctx, s.credentials, time.Duration(s.cfg.DialTimeout), s.logger)
	}
	return nil
}

// client returns the client in the configured namespace. Its parts send nothing before they are used.
func (c *core) client() (*Client, error) {
	cfg, log, obs := c.set.cfg, c.set.logger, c.set.observer
	read, write := time.Duration(cfg.ReadTimeout), time.Duration(cfg.WriteTimeout)
	leases := []lease.Option{
		lease.WithNamespace(c.set.namespace), lease.WithTimeouts(read, write), lease.WithRetry(cfg.Retry),
		lease.WithLogger(log), lease.WithRetryHook(obs.Retry), lease.WithLossHook(obs.LeaseLost),
	}
	if cfg.SessionTTL != 0 { // that of a client that was given to Wrap is lease's own default
		leases = append(leases, lease.WithSessionTTL(time.Duration(cfg.SessionTTL)))
	}
	watcher := watch.New(c.cli, watch.WithNamespace(c.set.namespace), watch.WithLogger(log), watch.WithResyncHook(obs.WatchResync))
	leases = append(leases, lease.WithWatcher(watcher))
	store, err := kv.New(c.cli,
		kv.WithNamespace(c.set.namespace), kv.WithTimeouts(read, write), kv.WithRetry(cfg.Retry), kv.WithLimits(c.set.limits),
		kv.WithLogger(log), kv.WithRetryHook(obs.Retry))
	client := &Client{core: c, store: store, leases: lease.New(c.cli, leases...), watcher: watcher}
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return client, nil
}

// KV is the store of the client's namespace. It is the same for every call.
func (c *Client) KV() *kv.Store { return c.store }

// Leases is what grants leases and keeps sessions and keys alive, in the client's namespace. It is the same for every
// call. Its shared session, which the other parts use as well, has Config.SessionTTL and is opened when first needed.
func (c *Client) Leases() *lease.Manager { return c.leases }

// Watcher watches in the client's namespace. It is the same for every call, and so are the streams of all namespaces.
func (c *Client) Watcher() *watch.Watcher { return c.watcher }

// Namespace is the same connection, session and watch streams below dir, which is relative to the client's own
// namespace. Closing it closes nothing. A dir that is none is told by each call of its parts.
func (c *Client) Namespace(dir string) *Client {
	below, err := keyspace.Dir(dir) // the parts tell what is wrong with it
	return &Client{
		core: c.core, store: c.store.Namespace(dir), leases: c.leases.Namespace(dir), watcher: c.watcher.Namespace(dir),
		below: c.below + below, view: true, badDir: c.badDir || err != nil,
	}
}

// Raw is the client of client/v3, outside the namespace. On a client that Open or OpenLazy made, its KV and Lease send
// again what is safe to send again, and its Watcher opens a watch again whose token etcd no longer accepts; errors,
// deadlines and the rest are as client/v3 has them. On one that was given to Wrap it is that one, unchanged.
func (c *Client) Raw() *clientv3.Client { return c.cli }

// endpoints are all endpoints, those that are left out at present included.
func (c *core) endpoints() []string {
	if c.patrol != nil {
		return c.patrol.endpoints()
	}
	return c.cli.Endpoints()
}

// Close releases the client's locks, removes the keys that it keeps and revokes its sessions, ends its watches, then what
// it runs in the background and its connections, and with [ErrClosed] the calls under way. It takes about 5 s at most,
// also when etcd is away, and 5 s more if a function that runs under a lock does not return. It does its work once, and returns the same result every time; an error of package lease or lock
// means that leases, and what is on them, were left to end by themselves: worth a line in the log, and no failure of the
// program. A client made by Namespace has nothing to close.
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

// isClosed reports whether the client, or the one below, is closed.
func (c *core) isClosed() bool { return c.closed.Load() || c.cli.Ctx().Err() != nil }

// close ends the patrol and the login before the connections that they use.
func (c *core) close() error {
	c.stop() // also ends the context of cli, and with it the calls
	if c.patrol != nil {
		c.patrol.wait()
	}
	if c.sync != nil {
		<-c.sync.done
	}
	if c.login != nil {
		c.login.wait()
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
