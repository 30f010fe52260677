package etcdkit

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc/credentials"
)

// reloader parses files again after their contents have changed. If the contents cannot be parsed,
// such as those of a partly written file, it keeps the last good value.
type reloader[T any] struct {
	parse  func(contents ...[]byte) (T, error)
	paths  []string
	logger *slog.Logger

	mu   sync.Mutex
	sum  [sha256.Size]byte // checksum of the contents of good
	good T
	err  error // of the last attempt
}

// load reads the files for the first time.
func (r *reloader[T]) load() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read()
}

// current reads the files and returns their value, or the last good one if that fails.
func (r *reloader[T]) current() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.err
	r.err = r.read()
	switch {
	case r.err != nil && (before == nil || before.Error() != r.err.Error()):
		r.logger.Warn("TLS file cannot be read: the last good one stays in use", "file", r.paths[0], "error", r.err)
	case r.err == nil && before != nil:
		r.logger.Warn("TLS file can be read again", "file", r.paths[0])
	}
	return r.good
}

// read replaces the good value if the contents of the files have changed and can be parsed.
func (r *reloader[T]) read() error {
	contents := make([][]byte, len(r.paths))
	hash := sha256.New()
	for i, path := range r.paths {
		data, err := os.ReadFile(path) //nolint:gosec // the path is the user's configuration
		if err != nil {
			return err
		}
		part := sha256.Sum256(data)
		hash.Write(part[:])
		contents[i] = data
	}
	sum := [sha256.Size]byte(hash.Sum(nil))
	if sum == r.sum {
		return nil
	}
	value, err := r.parse(contents...)
	if err != nil {
		return err
	}
	r.good, r.sum = value, sum
	return nil
}

// reloadingCredentials are TLS credentials that read the CA certificates from the file at each
// handshake.
type reloadingCredentials struct {
	config *tls.Config
	roots  *reloader[*x509.CertPool]
}

// current returns credentials with the current CA certificates.
func (c *reloadingCredentials) current() credentials.TransportCredentials {
	config := c.config.Clone()
	config.RootCAs = c.roots.current()
	return credentials.NewTLS(config)
}

// ClientHandshake performs the handshake with the current CA certificates.
func (c *reloadingCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.current().ClientHandshake(ctx, authority, conn)
}

// ServerHandshake is required by the interface. A client does not use it.
func (c *reloadingCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(c.config).ServerHandshake(conn)
}

// Info returns the protocol information.
func (c *reloadingCredentials) Info() credentials.ProtocolInfo {
	return credentials.NewTLS(c.config).Info()
}

// Clone returns a copy.
func (c *reloadingCredentials) Clone() credentials.TransportCredentials {
	return &reloadingCredentials{config: c.config.Clone(), roots: c.roots}
}

// OverrideServerName sets the name that the server's certificate must be valid for.
func (c *reloadingCredentials) OverrideServerName(name string) error {
	c.config.ServerName = name
	return nil
}
