package endpoint

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc/credentials"
)

// RootCAs are the CA certificates of a PEM file, which is read again for every new connection.
type RootCAs struct{ reloader[*x509.CertPool] }

// LoadRootCAs reads the file, and returns an error if it cannot be used. If it cannot be used
// later, the last good certificates stay in use, and a warning is logged to l.
func LoadRootCAs(path string, l *slog.Logger) (*RootCAs, error) {
	r := &RootCAs{reloader[*x509.CertPool]{parse: parseCertPool, paths: []string{path}, logger: l}}
	err := r.load()
	return r, err
}

// Credentials returns TLS credentials that verify the server with the current certificates.
func (r *RootCAs) Credentials(config *tls.Config) credentials.TransportCredentials {
	return &reloadingCredentials{config: config, roots: r}
}

// parseCertPool parses CA certificates.
func parseCertPool(contents ...[]byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(contents[0]) {
		return nil, errors.New("contains no certificate")
	}
	return pool, nil
}

// LoadClientCertificate reads a certificate and its key from PEM files. The result is a field of
// [tls.Config], and reads the files again for every new connection. LoadClientCertificate returns
// an error if the files cannot be used. If they cannot be used later, the last good pair stays in
// use, and a warning is logged to l.
func LoadClientCertificate(certFile, keyFile string, l *slog.Logger) (func(*tls.CertificateRequestInfo) (*tls.Certificate, error), error) {
	r := &reloader[*tls.Certificate]{parse: parseKeyPair, paths: []string{certFile, keyFile}, logger: l}
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return r.current(), nil }, r.load()
}

// parseKeyPair parses a certificate and its key.
func parseKeyPair(contents ...[]byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	return &pair, err
}

// reloader parses files again after their contents have changed. If the contents cannot be parsed,
// such as those of a partly written file, it keeps the last good value.
type reloader[T any] struct {
	parse  func(contents ...[]byte) (T, error)
	paths  []string
	logger *slog.Logger

	mu    sync.Mutex
	sum   [sha256.Size]byte // checksum of the contents of value
	value T
	err   error // of the last attempt
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
		r.logger.Warn("TLS file cannot be read, the last good one stays in use", "file", r.paths[0], "error", r.err)
	case r.err == nil && before != nil:
		r.logger.Warn("TLS file can be read again", "file", r.paths[0])
	}
	return r.value
}

// read replaces the value if the contents of the files have changed and can be parsed.
func (r *reloader[T]) read() error {
	contents := make([][]byte, len(r.paths))
	hash := sha256.New()
	for i, path := range r.paths {
		data, err := os.ReadFile(path) //nolint:gosec // the path is the user's configuration
		if err != nil {
			return err
		}
		fileSum := sha256.Sum256(data)
		hash.Write(fileSum[:])
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
	r.value, r.sum = value, sum
	return nil
}

// reloadingCredentials are TLS credentials that use the current CA certificates at each handshake.
type reloadingCredentials struct {
	config *tls.Config
	roots  *RootCAs
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
