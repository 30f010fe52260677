package etcdkit

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
)

// TLSConfig names the files of a TLS connection. Connections use TLS 1.2 or later.
type TLSConfig struct {
	// CAFile holds the certificates, PEM, that the servers' are checked against. It is read for every new connection; a
	// file that cannot be used leaves the last good one in place. Default: the system's roots.
	CAFile string `json:"caFile,omitzero"`

	// CertFile and KeyFile hold the client certificate and its key, PEM. They go together. They are read for every new
	// connection; a pair that cannot be used, such as one that is half written, leaves the last good one in place.
	CertFile string `json:"certFile,omitzero"`
	KeyFile  string `json:"keyFile,omitzero"`

	// ServerName is the name that the servers' certificates have to be valid for. Default: the host of the endpoint.
	ServerName string `json:"serverName,omitzero"`

	// InsecureSkipVerifyForTests accepts any server, and with it anybody in between.
	InsecureSkipVerifyForTests bool `json:"insecureSkipVerifyForTests,omitzero"`
}

// load reads the files. The result of roots is nil without a CAFile. l gets a record when a file cannot be used later on.
func (c TLSConfig) load(l *slog.Logger) (config *tls.Config, roots *reloader[*x509.CertPool], err error) {
	out := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         c.ServerName,
		InsecureSkipVerify: c.InsecureSkipVerifyForTests, //nolint:gosec // its name says what it is for
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

// parsePool reads CA certificates.
func parsePool(contents ...[]byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(contents[0]) {
		return nil, errors.New("no certificate in it")
	}
	return pool, nil
}

// parsePair reads a certificate and its key.
func parsePair(contents ...[]byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	return &pair, err
}
