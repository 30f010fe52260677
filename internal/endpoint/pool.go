package endpoint

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Pool keeps a connection to each endpoint. A connection is opened on first use. A Pool is safe for
// concurrent use.
type Pool struct {
	dial  DialFunc
	tls   *tls.Config
	roots *RootCAs

	mu       sync.Mutex
	conns    map[string]*conn
	replaced map[*conn]string // connections that are not in conns any more but still in use, to their endpoints
	next     int              // position of Other in its rotation
	closed   bool
}

// conn is a connection to one endpoint with its number of users.
type conn struct {
	*grpc.ClientConn

	users int
	stale bool   // a new connection is needed; the last user or Close closes this one
	addr  string // of the member, "" before it has answered
}

// NewPool returns a Pool whose connections are made by dial. Explain needs the TLS settings, config
// and roots. config is nil if there are none or they are unknown. roots is nil if the CA
// certificates are those of config.
func NewPool(dial DialFunc, config *tls.Config, roots *RootCAs) *Pool {
	return &Pool{dial: dial, tls: config, roots: roots, conns: map[string]*conn{}, replaced: map[*conn]string{}}
}

// Do calls f with the connection to ep. While gRPC waits to reconnect, it returns the error of its
// last attempt, which may be outdated. So if f fails on an existing connection that is not ready,
// Do calls f again with a new connection.
func (p *Pool) Do(ctx context.Context, ep string, f func(conn *grpc.ClientConn) error) error {
	for {
		c, isNew, err := p.acquire(ep)
		if err != nil {
			return err
		}
		err = f(c.ClientConn)
		stale := err != nil && !isNew && ctx.Err() == nil && c.GetState() != connectivity.Ready
		p.release(ep, c, stale)
		if !stale {
			return err
		}
	}
}

// Acquire returns the connection to ep, which may not be established yet. The caller calls release
// when it no longer uses the connection.
func (p *Pool) Acquire(ep string) (conn grpc.ClientConnInterface, release func(), err error) {
	c, _, err := p.acquire(ep)
	if err != nil {
		return nil, nil, err
	}
	return c.ClientConn, func() { p.release(ep, c, false) }, nil
}

// acquire returns the connection to ep and whether it is new.
func (p *Pool) acquire(ep string) (c *conn, isNew bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.conns[ep]
	if !ok {
		if p.closed {
			return nil, false, errs.ClosedError("client")
		}
		cc, err := p.dial(ep)
		if err != nil {
			return nil, false, err
		}
		c = &conn{ClientConn: cc}
		p.conns[ep] = c
	}
	c.users++
	return c, !ok, nil
}

// release ends one use of a connection. If it is stale, the next user opens a new one.
func (p *Pool) release(ep string, c *conn, stale bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.users--
	c.stale = c.stale || stale
	if !c.stale {
		return
	}
	if p.conns[ep] == c {
		delete(p.conns, ep)
	}
	if c.users > 0 {
		p.replaced[c] = ep
		return
	}
	delete(p.replaced, c)
	_ = c.Close() // no caller uses it
}

// Probe checks the health of ep. It returns the cause if ep does not serve.
func (p *Pool) Probe(ctx context.Context, ep string) error {
	return p.Do(ctx, ep, func(conn *grpc.ClientConn) error {
		a := wire.Track(ctx, false)
		err := wire.Probe(a, conn)
		p.setAddress(ep, a.Peer())
		return err
	})
}

// Read makes a linearizable read of key at ep. A permission error proves that the member answered.
func (p *Pool) Read(ctx context.Context, ep, key string) error {
	err := p.Do(ctx, ep, func(conn *grpc.ClientConn) error {
		_, err := pb.NewKVClient(conn).Range(clientv3.WithRequireLeader(ctx), &pb.RangeRequest{Key: []byte(key), CountOnly: true})
		return err
	})
	if err == nil {
		return nil
	}
	if _, condition := retry.Classify(err, false); errors.Is(condition, errs.Permission) {
		return nil
	}
	return err
}

// Status fetches the status of the server at ep.
func (p *Pool) Status(ctx context.Context, ep string) (s *pb.StatusResponse, err error) {
	err = p.Do(ctx, ep, func(conn *grpc.ClientConn) error {
		s, err = pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
		return err
	})
	return s, err
}

// setAddress records the address of ep.
func (p *Pool) setAddress(ep, addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[ep]; c != nil && addr != "" {
		c.addr = addr
	}
}

// isAt reports whether ep is known to be at addr. The caller holds mu.
func (p *Pool) isAt(ep, addr string) bool {
	if c := p.conns[ep]; c != nil && c.addr != "" {
		return c.addr == addr
	}
	e, err := parseLenient(ep)
	return err == nil && e.addr == addr
}

// IsBroken reports whether there is a connection to ep that is not ready.
func (p *Pool) IsBroken(ep string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.conns[ep]
	return c != nil && c.GetState() != connectivity.Ready
}

// AddressOf returns the address of ep, or "" if it is unknown.
func (p *Pool) AddressOf(ep string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[ep]; c != nil {
		return c.addr
	}
	return ""
}

// EndpointAt returns the endpoint at addr, or "" if it is unknown.
func (p *Pool) EndpointAt(addr string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ep := range p.conns {
		if p.isAt(ep, addr) {
			return ep
		}
	}
	return ""
}

// Other returns one of eps that is not at addr, in rotation. An endpoint whose connection fails is
// the last choice, because an attempt would wait for it.
func (p *Pool) Other(eps []string, addr string) (ep string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	for i := range eps {
		candidate := eps[(p.next+i)%len(eps)]
		if p.isAt(candidate, addr) {
			continue
		}
		ep, ok = candidate, true
		if c := p.conns[candidate]; c == nil || c.GetState() != connectivity.TransientFailure {
			break
		}
	}
	return ep, ok
}

// Len returns the number of connections.
func (p *Pool) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Retain closes the connections to all endpoints other than eps.
func (p *Pool) Retain(eps []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ep, c := range p.conns {
		if !slices.Contains(eps, ep) {
			_ = c.Close() // calls over it fail; its endpoint is no longer in use
			delete(p.conns, ep)
		}
	}
	for c, ep := range p.replaced { // their last users remove them
		if !slices.Contains(eps, ep) {
			_ = c.Close()
		}
	}
}

// Close closes all connections, and so ends the calls over them. Later uses of the pool return an
// error that matches [errs.Closed].
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var all []error
	for _, c := range p.conns {
		all = append(all, c.Close())
	}
	for c := range p.replaced {
		_ = c.Close() // Retain may have closed it before
	}
	clear(p.conns)
	clear(p.replaced)
	return errors.Join(all...)
}
