package etcdkit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"

	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/healthcheck"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
)

// versionGracePeriod is how long Open waits for the versions of the members after its read has
// succeeded.
const versionGracePeriod = 200 * time.Millisecond

// Open connects to etcd and returns once a linearizable read has succeeded, so that a wrong
// address, certificate or password is reported here and not by the first call. ctx bounds this call
// only, and so does Config.DialTimeout. Open queries all endpoints concurrently. It does not wait
// for one that is slow to answer: that endpoint is evicted until it answers. With a single
// endpoint, Open costs one connection and two RPCs: the read, and one for the server's version.
//
// The error matches [ErrInvalid] (nothing was sent), [ErrUnavailable], [ErrUnauthenticated] or
// [ErrUnsupportedServer], and contains an [EndpointError] for each endpoint that failed. Open
// fetches the versions of the members that answer while the read is in progress. If etcd is down,
// Open does not wait for it to come up; see [OpenLazy].
func Open(ctx context.Context, cfg Config, opts ...Option) (*Client, error) {
	const op = "open"
	s, err := newSettings(op, cfg, opts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.cfg.DialTimeout))
	defer cancel()
	if err := s.lookupEndpoints(ctx, cfg); err != nil {
		return nil, opError(op, err)
	}
	conn, err := newConnection(s)
	if err != nil {
		return nil, opError(op, err)
	}
	client, err := newClient(conn)
	if err != nil {
		return nil, opError(op, err)
	}
	if err := conn.connect(ctx, client.store); err != nil {
		_ = client.Close() // err is the error to report
		return nil, opError(op, err)
	}
	conn.start()
	return client, nil
}

// OpenLazy is like Open, but only validates the configuration and returns without sending anything.
// The first call connects and logs in. While etcd is down, every call fails when its time is up.
// The versions of the members are checked in the background, and a warning is logged for each one
// that is not supported. Use OpenLazy in programs that must start while etcd is down.
// Config.DiscoverySRV is invalid, because it requires a lookup.
func OpenLazy(cfg Config, opts ...Option) (*Client, error) {
	const op = "open lazy"
	s, err := newSettings(op, cfg, opts)
	if err != nil {
		return nil, err
	}
	if len(s.endpoints) == 0 {
		return nil, opError(op, errs.Invalidf("discoverySRV requires a lookup: use Open"))
	}
	conn, err := newConnection(s)
	if err != nil {
		return nil, opError(op, err)
	}
	client, err := newClient(conn)
	if err != nil {
		return nil, opError(op, err)
	}
	conn.start()
	return client, nil
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
		return opError("harden", err)
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
// supported. Do not call cli.SetEndpoints while Health, Members or Diagnose runs: these methods
// call cli.Dial, which reads the endpoints without a lock.
//
// WithTLS, WithCredentials, WithDialOptions and WithEndpointSync are invalid, because cli already
// exists.
func Wrap(cli *clientv3.Client, opts ...Option) (*Client, error) {
	const op = "wrap"
	s := &settings{options: newOptions(opts)}
	if cli == nil {
		s.errs.add("no client")
	}
	for _, name := range s.notForWrap {
		s.errs.add("%s has no effect on an existing client", name)
	}
	s.setNamespace()
	if err := s.errs.join(op); err != nil {
		return nil, err
	}
	s.cfg = Config{Endpoints: cli.Endpoints(), Namespace: s.namespace}
	conn := &connection{settings: s, cli: cli, pool: endpoint.NewPool(endpoint.DialWith(cli), nil, nil), stop: func() {}}
	conn.versions = healthcheck.NewVersions(conn.pool.Status, s.logger)
	client, err := newClient(conn)
	if err != nil {
		return nil, opError(op, err)
	}
	return client, nil
}

// connect finds the endpoints that answer, and makes a linearizable read over them.
func (c *connection) connect(ctx context.Context, store *kv.Store) error {
	var failed endpoint.Errors
	var leaderless endpoint.Errors // first errors of endpoints that the read queries again
	healthy, fetch := c.settings.endpoints, c.fetchStatus
	if len(healthy) > 1 || !c.waitConnected(ctx) {
		healthy, failed = healthcheck.ProbeAll(ctx, c.pool, c.settings.endpoints)
		fetch = c.pool.Status
	}
	switch {
	case len(healthy) > 0 && len(failed) > 0:
		c.checker.Evict(failed) // so that the read connects only to the others
	case len(healthy) == 0 && slices.ContainsFunc(failed, func(e *endpoint.Error) bool { return healthcheck.IsLeaderless(e.Err) }):
		// They may be electing a leader: the read waits for it.
		leaderless, healthy, failed = failed, c.settings.endpoints, nil
	case len(healthy) == 0:
		err := fmt.Errorf("%w: %w", ErrUnavailable, endpointsError{failed})
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", err, retry.ContextError(ctx))
		}
		return err
	}
	unsupported := c.versions.StartFetch(ctx, healthy, fetch) // while the read is in progress
	err := c.firstRead(ctx, store, len(failed) > 0)
	// A permission error proves that the cluster answered.
	if err == nil || errors.Is(err, ErrPermission) {
		return c.requireSupported(unsupported(versionGracePeriod))
	}
	unsupported(0)
	all := make(endpoint.Errors, 0, len(healthy)+len(failed))
	for _, ep := range healthy {
		cause := errs.Cause(err)
		if i := slices.IndexFunc(leaderless, func(e *endpoint.Error) bool { return e.Endpoint == ep }); i >= 0 && !healthcheck.IsLeaderless(err) {
			// Time was up before the second answer.
			cause = fmt.Errorf("%w: %w", cause, leaderless[i].Err)
		}
		all = append(all, &endpoint.Error{Endpoint: ep, Err: cause})
	}
	return endpointsError{append(all, failed...)}
}

// waitConnected reports whether the client's connection is established within a short time. With a
// single endpoint, a probe over another connection would add nothing. If waitConnected returns
// false, a probe finds out why.
func (c *connection) waitConnected(ctx context.Context) bool {
	deadline, _ := ctx.Deadline() // always set: the dial timeout
	ctx, cancel := context.WithTimeout(ctx, min(healthcheck.GracePeriod, time.Until(deadline)/2))
	defer cancel()
	conn := c.cli.ActiveConnection()
	conn.Connect()
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			return true
		case connectivity.TransientFailure, connectivity.Shutdown:
			return false
		case connectivity.Idle, connectivity.Connecting:
		}
		if !conn.WaitForStateChange(ctx, state) {
			return false
		}
	}
}

// fetchStatus fetches the status of the only endpoint over the client's connection.
func (c *connection) fetchStatus(ctx context.Context, _ string) (*pb.StatusResponse, error) {
	return pb.NewMaintenanceClient(c.cli.ActiveConnection()).Status(ctx, &pb.StatusRequest{})
}

// firstRead makes the linearizable read of Open. If some endpoints are evicted, the others get half
// of the time. In the remaining time, every endpoint is queried on its own: a slow one may know the
// leader while others answer at once that there is none.
func (c *connection) firstRead(ctx context.Context, store *kv.Store, hasEvicted bool) error {
	if !hasEvicted {
		_, err := store.Exists(ctx, probeKey)
		return err
	}
	deadline, _ := ctx.Deadline() // always set: the dial timeout
	half, cancel := context.WithTimeout(ctx, time.Until(deadline)/2)
	defer cancel()
	_, err := store.Exists(half, probeKey)
	if err == nil || half.Err() == nil || ctx.Err() != nil {
		return err
	}
	c.checker.ReadmitAll()
	if healthcheck.ReadAny(ctx, c.pool, c.endpoints(), store.Dir()+probeKey) {
		return nil
	}
	return err
}

// requireSupported returns an error that lists the unsupported servers, or only logs them if
// WithUnsupportedServers is set.
func (c *connection) requireSupported(unsupported []*healthcheck.UnsupportedError) error {
	var all endpoint.Errors
	for _, err := range unsupported {
		if c.settings.unsupportedServers {
			c.versions.Log(err)
			continue
		}
		all = append(all, &endpoint.Error{Endpoint: err.Endpoint, Err: err})
	}
	if len(all) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnsupportedServer, endpointsError{all})
}
