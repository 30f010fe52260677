package etcdkit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// alertWithin bounds the wait for a TLS alert after the handshake.
const alertWithin = time.Second

// lines keeps a connection to each endpoint, in addition to the balanced one of client/v3. They
// serve to query a certain member and to find out why it does not answer. A connection is opened on
// first use.
type lines struct {
	dial func(ep string) (*grpc.ClientConn, error)
	tls  *tls.Config // nil: none or unknown

	roots *reloader[*x509.CertPool] // nil: use those of tls

	mu     sync.Mutex
	conns  map[string]*line
	turn   int // position of [lines.other] in its rotation
	closed bool
}

// line is a connection to one endpoint with its number of users.
type line struct {
	*grpc.ClientConn

	users int
	stale bool   // a new connection is needed; the last user closes this one
	addr  string // of the member, "" before it has answered
}

// ask calls f with the connection to ep. While gRPC waits to reconnect, it returns the error of its
// last attempt, which may be outdated. So if f fails on an existing connection that is not ready,
// ask calls f again with a new connection.
func (l *lines) ask(ctx context.Context, ep string, f func(conn *grpc.ClientConn) error) error {
	for {
		c, fresh, err := l.take(ep)
		if err != nil {
			return err
		}
		err = f(c.ClientConn)
		stale := err != nil && !fresh && ctx.Err() == nil && c.GetState() != connectivity.Ready
		l.leave(ep, c, stale)
		if !stale {
			return err
		}
	}
}

// take returns the connection to ep and whether it is new. It does not wait for the connection to
// be established.
func (l *lines) take(ep string) (c *line, fresh bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.conns[ep]
	if !ok {
		if l.closed {
			return nil, false, errClientClosed
		}
		conn, err := l.dial(ep)
		if err != nil {
			return nil, false, err
		}
		if l.conns == nil {
			l.conns = map[string]*line{}
		}
		c = &line{ClientConn: conn}
		l.conns[ep] = c
	}
	c.users++
	return c, !ok, nil
}

// leave ends one use of a connection. If it is stale, the next user opens a new one.
func (l *lines) leave(ep string, c *line, stale bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.users--
	c.stale = c.stale || stale
	if !c.stale {
		return
	}
	if l.conns[ep] == c {
		delete(l.conns, ep)
	}
	if c.users == 0 {
		_ = c.Close() // no caller uses it
	}
}

// probe checks the health of ep and returns the cause if it does not serve.
func (l *lines) probe(ctx context.Context, ep string) error {
	return l.ask(ctx, ep, func(conn *grpc.ClientConn) error {
		a := wire.Track(ctx, false)
		err := wire.Probe(a, conn)
		l.locate(ep, a.Peer())
		return err
	})
}

// locate records the address of ep.
func (l *lines) locate(ep, addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.conns[ep]; c != nil && addr != "" {
		c.addr = addr
	}
}

// isAt reports whether ep is known to be at addr. The caller holds mu.
func (l *lines) isAt(ep, addr string) bool {
	if c := l.conns[ep]; c != nil && c.addr != "" {
		return c.addr == addr
	}
	e, err := reachable(ep)
	return err == nil && e.addr == addr
}

// isBroken reports whether there is a connection to ep that is not ready.
func (l *lines) isBroken(ep string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.conns[ep]
	return c != nil && c.GetState() != connectivity.Ready
}

// addressOf returns the address of ep, or "" if it is unknown.
func (l *lines) addressOf(ep string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.conns[ep]; c != nil {
		return c.addr
	}
	return ""
}

// endpointAt returns the endpoint at addr, or "" if it is unknown.
func (l *lines) endpointAt(addr string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ep := range l.conns {
		if l.isAt(ep, addr) {
			return ep
		}
	}
	return ""
}

// other returns one of eps that is not at addr, in rotation. An endpoint whose connection fails is
// the last choice, because an attempt would wait for it.
func (l *lines) other(eps []string, addr string) (ep string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn++
	for i := range eps {
		one := eps[(l.turn+i)%len(eps)]
		if l.isAt(one, addr) {
			continue
		}
		ep, ok = one, true
		if c := l.conns[one]; c == nil || c.GetState() != connectivity.TransientFailure {
			break
		}
	}
	return ep, ok
}

// explain is like probe, but returns an error for people. A server that rejects the client's
// certificate sends a TLS alert and closes the connection. gRPC writes first and may see the
// connection closed before it reads the alert. In that case explain repeats the handshake without
// writing anything after it.
func (l *lines) explain(ctx context.Context, ep string) error {
	err := l.probe(ctx, ep)
	if err == nil {
		return nil
	}
	if l.tls != nil && cutWhileWriting(err) {
		if alert := l.alert(ctx, ep); alert != nil {
			return alert
		}
	}
	return hint(l.tls != nil, err)
}

func cutWhileWriting(err error) bool {
	text := err.Error()
	return strings.Contains(text, "broken pipe") || strings.Contains(text, "connection reset by peer")
}

// alert returns the TLS alert with which the server ends a connection, or nil.
func (l *lines) alert(ctx context.Context, ep string) error {
	e, err := parseEndpoint(ep)
	if err != nil {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, alertWithin)
	defer stop()
	network, addr := "tcp", e.addr
	if e.socket() {
		network, addr = "unix", strings.TrimPrefix(e.addr, "//")
	}
	cfg := l.tls.Clone()
	cfg.NextProtos = []string{"h2"}
	if l.roots != nil {
		cfg.RootCAs = l.roots.current()
	}
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, network, addr)
	if err == nil {
		defer func() { _ = conn.Close() }()
		deadline, _ := ctx.Deadline()
		_ = conn.SetReadDeadline(deadline) // cannot fail on an open connection
		_, err = conn.Read(make([]byte, 1))
	}
	if err != nil && strings.Contains(err.Error(), "tls: ") {
		return err
	}
	return nil
}

// hint adds the most likely cause to the error of a failed handshake.
func hint(secure bool, err error) error {
	switch text := err.Error(); {
	case strings.HasPrefix(text, "error reading server preface: ") && strings.HasSuffix(text, net.ErrClosed.Error()):
		return errors.New("the server accepts connections and says nothing") // gRPC has closed the connection
	case secure && text == "EOF":
		return errors.New("the TLS handshake was cut short: does the server speak TLS? (EOF)")
	case !secure && strings.HasPrefix(text, "error reading server preface: "):
		return fmt.Errorf("%w: does the server expect TLS?", err)
	}
	return err
}

// keep closes the connections to all endpoints other than eps.
func (l *lines) keep(eps []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ep, c := range l.conns {
		if !slices.Contains(eps, ep) {
			_ = c.Close() // calls over it fail; its endpoint is no longer in use
			delete(l.conns, ep)
		}
	}
}

// close closes all connections. No new ones are opened afterwards.
func (l *lines) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var all []error
	for _, c := range l.conns {
		all = append(all, c.Close())
	}
	l.conns = nil
	return errors.Join(all...)
}
