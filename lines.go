package etcdkit

import (
	"context"
	"crypto/tls"
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

	mu     sync.Mutex
	conns  map[string]*line
	closed bool
}

// line is a connection to one endpoint, and how many are using it.
type line struct {
	*grpc.ClientConn

	users int
	stale bool // there is a newer one; the last user closes it
}

// to returns the connection to ep, which it does not wait for, and what ends its use.
//
// A connection that could not be made waits before it is tried again, and answers with the reason of then. What is asked
// for here is how the endpoint is now, so such a connection gives way to a new one.
func (l *lines) to(ep string) (*grpc.ClientConn, func(), error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.conns[ep]
	if ok && c.GetState() == connectivity.TransientFailure {
		c.stale, ok = true, false
		l.retire(c)
		delete(l.conns, ep)
	}
	if !ok {
		if l.closed {
			return nil, nil, ErrClosed
		}
		conn, err := l.dial(ep)
		if err != nil {
			return nil, nil, err
		}
		if l.conns == nil {
			l.conns = map[string]*line{}
		}
		c = &line{ClientConn: conn}
		l.conns[ep] = c
	}
	c.users++
	return c.ClientConn, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		c.users--
		l.retire(c)
	}, nil
}

// retire closes c when it has been replaced and nobody uses it. The caller holds l.mu.
func (l *lines) retire(c *line) {
	if c.stale && c.users == 0 {
		_ = c.Close() // nothing is lost with it
	}
}

// probe asks ep whether it serves, and says why not.
func (l *lines) probe(ctx context.Context, ep string) error {
	conn, done, err := l.to(ep)
	if err != nil {
		return err
	}
	defer done()
	return wire.Probe(ctx, conn)
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
