package etcdkit

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLSConfig names the files of a TLS connection. Connections use TLS 1.2 or later.
type TLSConfig struct {
	// CAFile holds the certificates, PEM, that the servers' are checked against. Default: the system's roots.
	CAFile string `json:"caFile,omitzero"`

	// CertFile and KeyFile hold the client certificate and its key, PEM. They go together. They are looked at for
	// every new connection and read again once they have changed; a pair that cannot be used, such as one that is
	// half written, leaves the last good one in place.
	CertFile string `json:"certFile,omitzero"`
	KeyFile  string `json:"keyFile,omitzero"`

	// ServerName is the name that the servers' certificates have to be valid for. Default: the host of the endpoint.
	ServerName string `json:"serverName,omitzero"`

	// InsecureSkipVerifyForTests accepts any server, and with it anybody in between.
	InsecureSkipVerifyForTests bool `json:"insecureSkipVerifyForTests,omitzero"`
}

// load reads the files. l hears of a pair that could not be used later on.
func (c TLSConfig) load(l *slog.Logger) (*tls.Config, error) {
	out := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         c.ServerName,
		InsecureSkipVerify: c.InsecureSkipVerifyForTests, //nolint:gosec // its name says what it is for
	}
	var bad []error
	if c.CAFile != "" {
		pool, err := loadPool(c.CAFile)
		if err != nil {
			bad = append(bad, err)
		}
		out.RootCAs = pool
	}
	switch {
	case c.CertFile != "" && c.KeyFile != "":
		pair := &pairFile{cert: c.CertFile, key: c.KeyFile, logger: l}
		if err := pair.reload(); err != nil {
			bad = append(bad, err)
		}
		out.GetClientCertificate = pair.certificate
	case c.CertFile != "":
		bad = append(bad, errors.New("certFile without keyFile"))
	case c.KeyFile != "":
		bad = append(bad, errors.New("keyFile without certFile"))
	}
	return out, errors.Join(bad...)
}

// loadPool reads a file of CA certificates.
func loadPool(path string) (*x509.CertPool, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the path is the user's configuration
	if err != nil {
		return nil, fmt.Errorf("caFile: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("caFile: no certificate in %s", path)
	}
	return pool, nil
}

// pairFile is a client certificate and its key on disk, and the last good pair read from there.
type pairFile struct {
	cert, key string
	logger    *slog.Logger

	mu   sync.Mutex
	seen [2]stamp
	good *tls.Certificate
}

// stamp tells one content of a file from the next without reading it.
type stamp struct {
	changed time.Time
	size    int64
}

// certificate is asked by crypto/tls once for each new connection.
func (p *pairFile) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now, err := p.stamps(); err != nil || now != p.seen {
		if err := p.read(now); err != nil {
			p.logger.Warn("client certificate cannot be read: the last good one stays in use", "file", p.cert, "error", err)
		}
	}
	return p.good, nil
}

// reload reads the pair for the first time.
func (p *pairFile) reload() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, err := p.stamps()
	if err != nil {
		return fmt.Errorf("client certificate: %w", err)
	}
	return p.read(now)
}

// stamps looks at the files. It comes before reading them, so that a change in between is seen the next time.
func (p *pairFile) stamps() (out [2]stamp, err error) {
	for i, path := range []string{p.cert, p.key} {
		info, err := os.Stat(path)
		if err != nil {
			return out, err
		}
		out[i] = stamp{changed: info.ModTime(), size: info.Size()}
	}
	return out, nil
}

// read replaces the good pair if the files hold one. A bad pair leaves the stamps alone too, so that it is looked at
// again for the next connection: it may be the half of a rotation whose other half lands within the same tick.
func (p *pairFile) read(now [2]stamp) error {
	pair, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		return fmt.Errorf("client certificate: %w", err)
	}
	p.good, p.seen = &pair, now
	return nil
}
