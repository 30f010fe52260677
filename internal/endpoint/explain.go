package endpoint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// alertTimeout bounds the wait for a TLS alert after the handshake.
const alertTimeout = time.Second

// Explain is like Probe, but returns an error for people. A server that rejects the client's
// certificate sends a TLS alert and closes the connection. gRPC writes first and may see the
// connection closed before it reads the alert. In that case Explain repeats the handshake without
// writing anything after it.
func (p *Pool) Explain(ctx context.Context, ep string) error {
	err := p.Probe(ctx, ep)
	if err == nil {
		return nil
	}
	if p.tls != nil && isWriteError(err) {
		if alert := p.readAlert(ctx, ep); alert != nil {
			return alert
		}
	}
	return withHint(p.tls != nil, err)
}

// isWriteError reports whether the server closed the connection while gRPC was writing.
func isWriteError(err error) bool {
	text := err.Error()
	return strings.Contains(text, "broken pipe") || strings.Contains(text, "connection reset by peer")
}

// readAlert returns the TLS alert with which the server ends a connection, or nil.
func (p *Pool) readAlert(ctx context.Context, ep string) error {
	e, err := parse(ep)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, alertTimeout)
	defer cancel()
	network, addr := "tcp", e.addr
	if e.isSocket() {
		network, addr = "unix", strings.TrimPrefix(e.addr, "//")
	}
	config := p.tls.Clone()
	config.NextProtos = []string{"h2"}
	if p.roots != nil {
		config.RootCAs = p.roots.current()
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, network, addr)
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

// withHint adds the most likely cause to the error of a failed handshake.
func withHint(hasTLS bool, err error) error {
	switch text := err.Error(); {
	case strings.HasPrefix(text, "error reading server preface: ") && strings.HasSuffix(text, net.ErrClosed.Error()):
		// The error is that of gRPC, which has closed the connection.
		return errors.New("the server accepts connections but does not respond")
	case hasTLS && text == "EOF":
		return errors.New("the TLS handshake was cut short: does the server speak TLS? (EOF)")
	case !hasTLS && strings.HasPrefix(text, "error reading server preface: "):
		return fmt.Errorf("%w: does the server expect TLS?", err)
	}
	return err
}
