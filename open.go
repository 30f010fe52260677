package etcdkit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// graceForRest is how long Open waits for the other endpoints once one has answered.
	graceForRest = 200 * time.Millisecond

	// probeKey is read to see whether etcd answers; it need not exist. It lies below the namespace, where the user may
	// well be allowed to read.
	probeKey = "health"
)

// errSlow says of an endpoint that it was not waited for.
var errSlow = errors.New("no answer yet")

// Open connects to etcd and returns once a linearizable read was answered, so that a wrong address, certificate or
// password is told here and not by the first call. ctx bounds this call only, as does Config.DialTimeout. All endpoints
// are asked at once. One that does not answer does not hold Open up: it is left out until it does.
//
// The error names each endpoint with its reason as an [EndpointError], and matches [ErrInvalid] (nothing was sent),
// [ErrUnavailable] or [ErrUnauthenticated]. Open does not wait for an etcd that is down to come up; see [OpenLazy].
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
	client := c.client()
	if err := c.connect(ctx, client); err != nil {
		_ = client.Close() // err says what matters
		return nil, refuse(op, err)
	}
	c.patrol.start(c.cli.Ctx())
	return client, nil
}

// OpenLazy is Open without the wait: it checks the configuration, sends nothing, and returns. The first call connects and
// logs in, and as long as etcd is down every call fails when its time is up. Use it in programs that have to start while
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
	c.patrol.start(c.cli.Ctx())
	return c.client(), nil
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
	alive, rest := c.rollCall(ctx)
	if len(alive) == 0 {
		err := fmt.Errorf("%w: %w", ErrUnavailable, rest)
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", err, ended(ctx))
		}
		return err
	}
	if len(rest) > 0 {
		c.patrol.leaveOut(rest)
		c.cli.SetEndpoints(alive...) // the connection is made by the read below, and to these only
	}
	_, err := client.store.Exists(ctx, probeKey)
	if err == nil || errors.Is(err, ErrPermission) {
		return nil // who is refused was heard
	}
	all := make(endpointErrors, 0, len(alive)+len(rest))
	for _, ep := range alive {
		all = append(all, &EndpointError{Endpoint: ep, Err: reasonOf(err)})
	}
	return append(all, rest...)
}

// rollCall asks all endpoints at once and returns those that answer, and what is wrong with the others. Once one has
// answered the rest have a short time left.
func (c *core) rollCall(ctx context.Context) (alive []string, rest endpointErrors) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	eps := c.set.endpoints
	type answer struct {
		at  int
		err error
	}
	answers := make(chan answer, len(eps))
	for i, ep := range eps {
		go func() { answers <- answer{i, c.lines.explain(ctx, ep)} }() // awaited below
	}
	result := make([]error, len(eps))
	var grace *time.Timer
	for range eps {
		a := <-answers
		if a.err == nil && grace == nil {
			grace = time.AfterFunc(graceForRest, func() { stop(errSlow) })
		}
		if a.err != nil && errors.Is(context.Cause(ctx), errSlow) {
			a.err = errSlow
		}
		result[a.at] = a.err
	}
	if grace != nil {
		grace.Stop()
	}
	for i, ep := range eps {
		if result[i] == nil {
			alive = append(alive, ep)
			continue
		}
		rest = append(rest, &EndpointError{Endpoint: ep, Err: result[i]})
	}
	return alive, rest
}

// ended is the error of a context that has ended: it matches both its error and its cause.
func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// closedAlready reports whether a client was closed by somebody else before, which is no failure to close it.
func closedAlready(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, grpc.ErrClientConnClosing) || status.Code(err) == codes.Canceled //nolint:staticcheck // what gRPC still returns
}
