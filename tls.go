package etcdkit

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
)

// TLSConfig names the files for a TLS connection. Connections use TLS 1.2 or later.
type TLSConfig struct {
	// CAFile is a PEM file of the CA certificates that verify the servers. It is read for every new
	// connection. If it cannot be used, the last good version stays in use. Default: the system's
	// root certificates.
	CAFile string `json:"caFile,omitzero"`

	// CertFile and KeyFile are PEM files of the client certificate and its key. Either both or
	// neither must be set. They are read for every new connection. If they cannot be used, for
	// example because one is partly written, the last good pair stays in use.
	CertFile string `json:"certFile,omitzero"`
	KeyFile  string `json:"keyFile,omitzero"`

	// ServerName is the name that the servers' certificates must be valid for. Default: the host of
	// the endpoint, or DiscoverySRV if it is set.
	ServerName string `json:"serverName,omitzero"`

	// InsecureSkipVerifyForTests accepts any server certificate, which allows machine-in-the-middle
	// attacks.
	InsecureSkipVerifyForTests bool `json:"insecureSkipVerifyForTests,omitzero"`
}

// load reads the files. roots is nil without a CAFile. l is for warnings about files that become
// unusable later.
func (c TLSConfig) load(l *slog.Logger) (config *tls.Config, roots *reloader[*x509.CertPool], err error) {
	out := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         c.ServerName,
		InsecureSkipVerify: c.InsecureSkipVerifyForTests, //nolint:gosec // the name of the field is the warning
	}
	var bad []error
	if c.CAFile != "" {
		roots = &reloader[*x509.CertPool]{parse: parsePool, paths: []string{c.CAFile}, logger: l}
		if err := roots.load(); err != nil {
			bad = append(bad, fmt.Errorf("caFile %s: %w", c.CAFile, err))
		}
	}
	switch {
	case c.CertFile != "" && c.KeyFile != "":
		pair := &reloader[*tls.Certificate]{parse: parsePair, paths: []string{c.CertFile, c.KeyFile}, logger: l}
		if err := pair.load(); err != nil {
			bad = append(bad, fmt.Errorf("client certificate: %w", err))
		}
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.current(), nil }
	case c.CertFile != "":
		bad = append(bad, errors.New("certFile without keyFile"))
	case c.KeyFile != "":
		bad = append(bad, errors.New("keyFile without certFile"))
	}
	return out, roots, errors.Join(bad...)
}

// parsePool parses CA certificates.
func parsePool(contents ...[]byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(contents[0]) {
		return nil, errors.New("no certificate in it")
	}
	return pool, nil
}

// parsePair parses a certificate and its key.
func parsePair(contents ...[]byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	return &pair, err
}
