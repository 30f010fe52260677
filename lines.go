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

// alertWithin bounds the wait for what a server says after the handshake.
const alertWithin = time.Second

// lines keeps one connection to each endpoint, beside the balanced one of client/v3: to ask a certain member and to
// learn why it does not answer. A connection is made when it is first needed.
type lines struct {
	dial func(ep string) (*grpc.ClientConn, error)
	tls  *tls.Config // nil: none, or unknown

	roots *reloader[*x509.CertPool] // nil: those of tls

	mu     sync.Mutex
	conns  map[string]*line
	turn   int // of the endpoints in [lines.other]
	closed bool
}

// line is a connection to one endpoint, and how many are using it.
type line struct {
	*grpc.ClientConn

	users int
	stale bool   // there is to be another one; the last user closes it
	addr  string // of the member, "" before it has answered
}

// ask calls f with the connection to ep. What is asked for here is how the endpoint is now, while gRPC answers with the
// reason of its last attempt as long as it waits for the next. So f is called again, over a new connection, when it fails
// on one that was there before and is not open.
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

// take returns the connection to ep, and whether it is a new one. It does not wait for it.
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

// leave ends a use of a connection, and has the next user make a new one if it is stale.
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
		_ = c.Close() // nothing is lost with it
	}
}

// probe asks ep whether it serves, and says why not.
func (l *lines) probe(ctx context.Context, ep string) error {
	return l.ask(ctx, ep, func(conn *grpc.ClientConn) error {
		a := wire.Track(ctx, false)
		err := wire.Probe(a, conn)
		l.locate(ep, a.Peer())
		return err
	})
}

// locate notes at which address ep is.
func (l *lines) locate(ep, addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.conns[ep]; c != nil && addr != "" {
		c.addr = addr
	}
}

// isAt reports whether ep is at addr, as far as that is known. The lock is held.
func (l *lines) isAt(ep, addr string) bool {
	if c := l.conns[ep]; c != nil && c.addr != "" {
		return c.addr == addr
	}
	e, err := reachable(ep)
	return err == nil && e.addr == addr
}

// isBroken reports whether the connection to ep, if there is one, is lost.
func (l *lines) isBroken(ep string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.conns[ep]
	return c != nil && c.GetState() != connectivity.Ready
}

// addressOf returns the address of ep, "" if it is not known.
func (l *lines) addressOf(ep string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.conns[ep]; c != nil {
		return c.addr
	}
	return ""
}

// endpointAt returns the endpoint at addr, "" if it is not known.
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

// other returns one of eps that is not at addr, each in turn. One that cannot be connected to is the last choice: an attempt
// there would wait for it.
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

// explain is probe for people. A server that does not like the client's certificate sends the reason and closes the
// connection; gRPC, which writes first, may find it closed before it reads. Then the handshake is made once more without
// a word after it.
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

// alert is the reason that a server gives for ending a TLS connection, or nil.
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
		_ = conn.SetReadDeadline(deadline) // of a connection that is open
		_, err = conn.Read(make([]byte, 1))
	}
	if err != nil && strings.Contains(err.Error(), "tls: ") {
		return err
	}
	return nil
}

// hint adds to a broken handshake what it most often means, which its text does not say.
func hint(secure bool, err error) error {
	switch text := err.Error(); {
	case strings.HasPrefix(text, "error reading server preface: ") && strings.HasSuffix(text, net.ErrClosed.Error()):
		return errors.New("the server accepts connections and says nothing") // gRPC has given up on it
	case secure && text == "EOF":
		return errors.New("the TLS handshake was cut short: does the server speak TLS? (EOF)")
	case !secure && strings.HasPrefix(text, "error reading server preface: "):
		return fmt.Errorf("%w: does the server expect TLS?", err)
	}
	return err
}

// keep closes the connections to all but eps.
func (l *lines) keep(eps []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ep, c := range l.conns {
		if !slices.Contains(eps, ep) {
			_ = c.Close() // nothing is lost with it
			delete(l.conns, ep)
		}
	}
}

// close ends all connections and makes no more.
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
