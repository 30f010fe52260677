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
	// probeKey is read to see whether etcd answers; it need not exist. It lies below the namespace, where the user may
	// well be allowed to read.
	probeKey = "health"
)

// Open connects to etcd and returns once a linearizable read was answered, so that a wrong address, certificate or
// password is told here and not by the first call. ctx bounds this call only, as does Config.DialTimeout. All endpoints
// are asked at once. One that does not answer does not hold Open up: it is left out until it does. With
// a single endpoint, Open costs one connection and two RPCs: the read, and one for the server's version.
//
// The error names each endpoint with its reason as an [EndpointError], and matches [ErrInvalid] (nothing was sent),
// [ErrUnavailable], [ErrUnauthenticated] or [ErrUnsupportedServer], for which the members that answer are asked for their
// versions while the read is under way. Open does not wait for an etcd that is down to come up; see [OpenLazy].
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
		return nil, refuse(op, reasonOf(err))
	}
	if err := c.connect(ctx, client); err != nil {
		_ = client.Close() // err says what matters
		return nil, refuse(op, err)
	}
	c.start(client)
	return client, nil
}

// OpenLazy is Open without the wait: it checks the configuration, sends nothing, and returns. The first call connects and
// logs in, and as long as etcd is down every call fails when its time is up. The versions of the members are checked in
// the background; one that is not supported is logged as a warning. Use it in programs that have to start while
// etcd is away. Config.DiscoverySRV is refused, because it has to be looked up first.
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
		return nil, refuse(op, reasonOf(err))
	}
	c.start(client)
	return client, nil
}

// start runs what the client does in the background until it is closed.
func (c *core) start(client *Client) {
	ctx := c.cli.Ctx()
	c.patrol.start(ctx)
	if c.set.endpointSync > 0 {
		c.sync = &endpointSync{client: client, every: c.set.endpointSync, done: make(chan struct{})}
		go c.sync.run(ctx)
	}
}

// discover looks the endpoints up where they are not given, and checks them as if they were.
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

// connect finds out which endpoints answer, and has one of them answer a linearizable read.
func (c *core) connect(ctx context.Context, client *Client) error {
	var said endpointErrors // what is kept in mind of those that are asked again
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
		c.cli.SetEndpoints(alive...) // the connection is made by the read below, and to these only
	case len(alive) == 0 && slices.ContainsFunc(rest, func(e *EndpointError) bool { return leaderless(e.Err) }):
		said, alive, rest = rest, c.set.endpoints, nil // perhaps they are electing one: the read waits for that
	case len(alive) == 0:
		err := fmt.Errorf("%w: %w", ErrUnavailable, rest)
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", err, retry.ContextError(ctx))
		}
		return err
	}
	unsupported := c.versions.start(ctx, alive, fetch) // while the read is under way
	err := c.firstRead(ctx, client, len(rest) > 0)
	if err == nil || errors.Is(err, ErrPermission) { // a permission error proves that the cluster answered
		return c.requireSupported(unsupported(versionGrace))
	}
	unsupported(0)
	all := make(endpointErrors, 0, len(alive)+len(rest))
	for _, ep := range alive {
		reason := reasonOf(err)
		if i := slices.IndexFunc(said, func(e *EndpointError) bool { return e.Endpoint == ep }); i >= 0 && !leaderless(err) {
			reason = fmt.Errorf("%w: %w", reason, said[i].Err) // time was up before it was answered once more
		}
		all = append(all, &EndpointError{Endpoint: ep, Err: reason})
	}
	return append(all, rest...)
}

// connected reports whether the client's connection is established within a short time. With a single
// endpoint, probing it over another connection would tell no more. If it returns false, a probe tells why.
func (c *core) connected(ctx context.Context) bool {
	deadline, _ := ctx.Deadline() // there is one: the dial timeout
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

// fetchStatus asks the only endpoint for its status over the client's connection.
func (c *core) fetchStatus(ctx context.Context, _ string) (*pb.StatusResponse, error) {
	return pb.NewMaintenanceClient(c.cli.ActiveConnection()).Status(ctx, &pb.StatusRequest{})
}

// firstRead makes the read. When endpoints are left out, the others have half of the time. What is left is for all of them,
// each by itself: a leader may be known to those that were slow, and others may answer at once that they know of none.
func (c *core) firstRead(ctx context.Context, client *Client, some bool) error {
	if !some {
		_, err := client.store.Exists(ctx, probeKey)
		return err
	}
	deadline, _ := ctx.Deadline() // there is one: the dial timeout
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

// readAnywhere asks every endpoint for a linearizable read, and again while it cannot answer, until one has.
func (c *core) readAnywhere(ctx context.Context, key string) bool {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop() // before it is waited for
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

// readFrom asks one endpoint until it answers.
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

// closedAlready reports whether a client was closed by somebody else before, which is no failure to close it.
func closedAlready(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, grpc.ErrClientConnClosing) || status.Code(err) == codes.Canceled //nolint:staticcheck // what gRPC still returns
}
