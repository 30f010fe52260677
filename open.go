package etcdkit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/retry"
)

const (
	// probeKey is the key that is read to check whether etcd answers. It need not exist. It is
	// below the namespace, where the user is likely to have permission to read.
	probeKey = "health"
)

// Open connects to etcd and returns once a linearizable read has succeeded, so that a wrong
// address, certificate or password is reported here and not by the first call. ctx bounds this call
// only, and so does Config.DialTimeout. Open queries all endpoints concurrently. It does not wait
// for one that is slow to answer: that endpoint is evicted until it answers. With a single
// endpoint, Open costs one connection and two RPCs: the read, and one for the server's version.
//
// The error contains an [EndpointError] for each endpoint and matches [ErrInvalid] (nothing was
// sent), [ErrUnavailable], [ErrUnauthenticated] or [ErrUnsupportedServer]. Open fetches the
// versions of the members that answer while the read is in progress. If etcd is down, Open does not
// wait for it to come up; see [OpenLazy].
func Open(ctx context.Context, cfg Config, opts ...Option) (*Client, error) {
	const op = "open"
	if ctx == nil {
		return nil, refuse(op, fmt.Errorf("%w: nil context", ErrInvalid))
	}
	s, err := newSettings(op, cfg, opts)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, time.Duration(s.cfg.DialTimeout))
	defer stop()
	if err := s.discover(ctx, cfg); err != nil {
		return nil, refuse(op, err)
	}
	c, err := newCore(s)
	if err != nil {
		return nil, refuse(op, err)
	}
	client, err := c.client()
	if err != nil {
		return nil, refuse(op, err)
	}
	if err := c.connect(ctx, client); err != nil {
		_ = client.Close() // err is the error to report
		return nil, refuse(op, err)
	}
	c.start(client)
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
		return nil, refuse(op, fmt.Errorf("%w: discoverySRV needs a look-up: use Open", ErrInvalid))
	}
	c, err := newCore(s)
	if err != nil {
		return nil, refuse(op, err)
	}
	client, err := c.client()
	if err != nil {
		return nil, refuse(op, err)
	}
	c.start(client)
	return client, nil
}

// start starts the background work, which runs until the client is closed.
func (c *core) start(client *Client) {
	ctx := c.cli.Ctx()
	c.patrol.start(ctx)
	if c.set.endpointSync > 0 {
		c.sync = &endpointSync{client: client, every: c.set.endpointSync, done: make(chan struct{})}
		go c.sync.run(ctx)
	}
}

// discover looks up the endpoints if DiscoverySRV is set, and validates them like configured ones.
func (s *settings) discover(ctx context.Context, cfg Config) error {
	if cfg.DiscoverySRV == "" {
		return nil
	}
	list, err := discover(ctx, s.lookup, cfg.DiscoverySRV, s.tls != nil)
	if err != nil {
		return err
	}
	var bad complaints
	s.setEndpoints(cfg, list, &bad)
	if s.tls != nil && s.tls.ServerName == "" {
		s.tls.ServerName = cfg.DiscoverySRV
	}
	return errors.Join(bad...)
}

// connect finds the endpoints that answer, and makes a linearizable read over them.
func (c *core) connect(ctx context.Context, client *Client) error {
	var said endpointErrors // first errors of endpoints that are queried again
	var rest endpointErrors
	alive, fetch := c.set.endpoints, c.fetchStatus
	if len(alive) > 1 || !c.connected(ctx) {
		alive, rest = c.rollCall(ctx)
		fetch = c.lines.fetchStatus
	}
	switch {
	case len(alive) > 0 && len(rest) > 0:
		c.patrol.leaveOut(rest)
		c.patrol.logOutages()
		c.cli.SetEndpoints(alive...) // the read below opens the connection, to these endpoints only
	case len(alive) == 0 && slices.ContainsFunc(rest, func(e *EndpointError) bool { return leaderless(e.Err) }):
		said, alive, rest = rest, c.set.endpoints, nil // they may be electing a leader: the read waits for it
	case len(alive) == 0:
		err := fmt.Errorf("%w: %w", ErrUnavailable, rest)
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", err, retry.ContextError(ctx))
		}
		return err
	}
	unsupported := c.versions.start(ctx, alive, fetch) // while the read is in progress
	err := c.firstRead(ctx, client, len(rest) > 0)
	if err == nil || errors.Is(err, ErrPermission) { // a permission error proves that the cluster answered
		return c.requireSupported(unsupported(versionGrace))
	}
	unsupported(0)
	all := make(endpointErrors, 0, len(alive)+len(rest))
	for _, ep := range alive {
		reason := reasonOf(err)
		if i := slices.IndexFunc(said, func(e *EndpointError) bool { return e.Endpoint == ep }); i >= 0 && !leaderless(err) {
			reason = fmt.Errorf("%w: %w", reason, said[i].Err) // time was up before the second answer
		}
		all = append(all, &EndpointError{Endpoint: ep, Err: reason})
	}
	return append(all, rest...)
}

// connected reports whether the client's connection is established within a short time. With a
// single endpoint, a probe over another connection would add nothing. If connected returns false, a
// probe finds out why.
func (c *core) connected(ctx context.Context) bool {
	deadline, _ := ctx.Deadline() // always set: the dial timeout
	ctx, stop := context.WithTimeout(ctx, min(graceForRest, time.Until(deadline)/2))
	defer stop()
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
func (c *core) fetchStatus(ctx context.Context, _ string) (*pb.StatusResponse, error) {
	return pb.NewMaintenanceClient(c.cli.ActiveConnection()).Status(ctx, &pb.StatusRequest{})
}

// firstRead makes the linearizable read of Open. If some endpoints are evicted, the others get half
// of the time. In the remaining time, every endpoint is queried on its own: a slow one may know the
// leader while others answer at once that there is none.
func (c *core) firstRead(ctx context.Context, client *Client, some bool) error {
	if !some {
		_, err := client.store.Exists(ctx, probeKey)
		return err
	}
	deadline, _ := ctx.Deadline() // always set: the dial timeout
	half, stop := context.WithTimeout(ctx, time.Until(deadline)/2)
	defer stop()
	_, err := client.store.Exists(half, probeKey)
	if err == nil || half.Err() == nil || ctx.Err() != nil {
		return err
	}
	c.cli.SetEndpoints(c.patrol.everything()...)
	if c.readAnywhere(ctx, client.store.Dir()+probeKey) {
		return nil
	}
	return err
}

// readAnywhere makes linearizable reads at every endpoint, and repeats failed ones, until one
// succeeds.
func (c *core) readAnywhere(ctx context.Context, key string) bool {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop() // deferred last, so that it runs before wg.Wait
	eps := c.endpoints()
	answered := make(chan bool, len(eps))
	for _, ep := range eps {
		wg.Go(func() { answered <- c.readFrom(ctx, ep, key) })
	}
	for range eps {
		if <-answered {
			return true
		}
	}
	return false
}

// readFrom repeats the read at one endpoint until it succeeds.
func (c *core) readFrom(ctx context.Context, ep, key string) bool {
	again := time.NewTicker(leaderlessAgain)
	defer again.Stop()
	for {
		if err := c.read(ctx, ep, key); err == nil {
			return true
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return false
		}
	}
}

// closedAlready reports whether err means that another caller has closed the client, which is not
// an error of Close.
func closedAlready(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, grpc.ErrClientConnClosing) || status.Code(err) == codes.Canceled //nolint:staticcheck // gRPC still returns it
}
