package etcdkit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/auth"
	"github.com/etcdkit/etcdkit/internal/decorate"
	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/healthcheck"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/internal/zapslog"
	"github.com/etcdkit/etcdkit/kv"
)

// probeKey is the key that is read to check whether etcd answers. It need not exist. It is below
// the namespace, where the user is likely to have permission to read.
const probeKey = "health"

// connection is what a client and the clients that Namespace derives from it share.
type connection struct {
	settings *settings
	cli      *clientv3.Client
	auth     *auth.Authenticator  // nil if calls need no token, and after Wrap
	pool     *endpoint.Pool       // connections to single endpoints
	engine   *retry.Engine        // of the decorated client; nil after Wrap
	checker  *healthcheck.Checker // nil after Wrap, whose caller owns the client and its endpoints
	versions *healthcheck.Versions
	lockers  lockers

	stop       context.CancelFunc // ends all background work
	background sync.WaitGroup
	closed     atomic.Bool
	closeOnce  sync.Once
	closeErr   error
}

// newConnection creates the client/v3 client, which connects on first use.
func newConnection(s *settings) (*connection, error) {
	//nolint:forbidigo // the client's own life: ends with Close, and no caller's context may reach shared connections
	ctx, stop := context.WithCancel(context.Background())
	cfg := clientv3.Config{
		Endpoints:            s.endpoints,
		DialTimeout:          time.Duration(s.cfg.DialTimeout),
		DialKeepAliveTime:    time.Duration(s.cfg.KeepAlive.Time),
		DialKeepAliveTimeout: time.Duration(s.cfg.KeepAlive.Timeout),
		TLS:                  s.tls,
		Context:              ctx,
		MaxCallSendMsgSize:   maxSendBytes(s.limits),
		Logger:               zapslog.New(s.logger),
		DialOptions:          []grpc.DialOption{wire.WithoutInterceptor()},
	}
	c := &connection{settings: s, stop: stop}
	err := wire.Harden(&cfg)
	if err == nil {
		c.auth = newAuthenticator(ctx, s)
		if c.auth != nil {
			cfg.DialOptions = append(cfg.DialOptions, c.auth.DialOptions()...)
		}
		cfg.DialOptions = append(append(cfg.DialOptions, tlsDialOptions(s.tls, s.roots)...), s.dial...)
		c.pool = endpoint.NewPool(endpoint.DialConfig(cfg), s.tls, s.roots)
		c.cli, err = clientv3.New(cfg)
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c.versions = healthcheck.NewVersions(c.pool.Status, s.logger)
	c.checker = healthcheck.New(healthcheck.Config{
		Balancer: c.cli, Prober: c.pool, Versions: c.versions, Logger: s.logger, ReadKey: s.namespace + probeKey,
		IsDown:    func() bool { return c.cli.ActiveConnection().GetState() == connectivity.TransientFailure },
		OnFailure: func(ep string) { c.engine.ReportOverdue(c.pool.AddressOf(ep)) },
	})
	c.decorate()
	return c, nil
}

// tlsDialOptions returns the TLS settings that client/v3 does not apply itself.
func tlsDialOptions(config *tls.Config, roots *endpoint.RootCAs) []grpc.DialOption {
	var opts []grpc.DialOption
	if config != nil && config.ServerName != "" {
		// ServerName alone has no effect: client/v3 passes the endpoint's name to gRPC.
		opts = append(opts, grpc.WithAuthority(config.ServerName))
	}
	if roots != nil { // replaces the credentials that client/v3 derives from config
		opts = append(opts, grpc.WithTransportCredentials(roots.Credentials(config)))
	}
	return opts
}

// maxSendBytes returns the send limit for client/v3. It is 0, which selects client/v3's default,
// unless the cluster accepts larger requests.
func maxSendBytes(l kv.Limits) int {
	// As in client/v3: its default, and what a message has beside keys and values.
	const defaultLimit, overhead = 2 << 20, 512 << 10
	if l.RequestBytes <= defaultLimit-overhead {
		return 0
	}
	return l.RequestBytes + overhead
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

// decorate adds safe retries and token renewal to the client that Raw returns. The stores do not
// use the decorated fields.
func (c *connection) decorate() {
	s, cfg := c.settings, c.settings.cfg
	c.engine = retry.New(retry.Config{
		Client: c.cli, Observed: true, Members: &healthcheck.Members{Checker: c.checker, Pool: c.pool},
		Policy: retry.Policy(cfg.Retry), Logger: s.logger, Scope: s.scope,
		ReadTimeout: time.Duration(cfg.ReadTimeout), WriteTimeout: time.Duration(cfg.WriteTimeout),
	})
	c.engine.OnOverdue(func(addr string) { c.checker.ReportOverdue(c.pool.EndpointAt(addr)) })
	decorate.Client(c.cli, c.engine, c.auth != nil && c.auth.IsRenewable())
}

// start starts the background work, which runs until the client is closed.
func (c *connection) start() {
	ctx := c.cli.Ctx()
	c.background.Go(func() { c.checker.Run(ctx) })
	if c.settings.endpointSync > 0 {
		endpoints := &endpoint.Sync{
			Interval: c.settings.endpointSync, Timeout: time.Duration(c.settings.cfg.DialTimeout), HasTLS: c.settings.tls != nil,
			Pool: c.pool, Logger: c.settings.logger, Members: c.cli.MemberList, ClusterID: c.versions.ClusterID,
			Endpoints: c.endpoints, SetEndpoints: c.setEndpoints,
		}
		c.background.Go(func() { endpoints.Run(ctx) })
	}
}

// endpoints returns all endpoints, including evicted ones.
func (c *connection) endpoints() []string {
	if c.checker != nil {
		return c.checker.Endpoints()
	}
	return c.cli.Endpoints()
}

// setEndpoints validates endpoints and replaces those of the client.
func (c *connection) setEndpoints(list ...string) error {
	eps, all := endpoint.ParseAll(list)
	for _, e := range eps {
		if e.RequiresTLS() && c.settings.tls == nil {
			all = append(all, errs.Invalidf("endpoint %s requires TLS, but the client was opened without it", e))
		}
	}
	private := c.auth != nil && !c.settings.cfg.AllowInsecureCredentials
	formatted, formatErrs := endpoint.Format(eps, c.settings.tls != nil, private)
	if err := errors.Join(append(all, formatErrs...)...); err != nil {
		return err
	}
	c.checker.Replace(formatted)
	return nil
}

// isClosed reports whether the client or the client/v3 client is closed.
func (c *connection) isClosed() bool { return c.closed.Load() || c.cli.Ctx().Err() != nil }

// close stops the background work and logins before it closes the connections they use.
func (c *connection) close() error {
	c.stop() // also ends the context of cli, and so all calls
	c.background.Wait()
	if c.auth != nil {
		c.auth.Wait()
	}
	err := c.pool.Close()
	if c.checker == nil {
		return err
	}
	if cerr := c.cli.Close(); cerr != nil && !isAlreadyClosed(cerr) {
		return opError("close", cerr)
	}
	return err
}

// isAlreadyClosed reports whether err means that another caller has closed the client, which is not
// an error of Close.
func isAlreadyClosed(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, grpc.ErrClientConnClosing) || status.Code(err) == codes.Canceled //nolint:staticcheck // gRPC still returns it
}
