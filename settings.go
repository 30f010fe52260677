package etcdkit

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"

	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// settings is a validated configuration with its options.
type settings struct {
	options

	cfg       Config // with defaults, without secrets
	namespace string // normalized
	token     string
	roots     *endpoint.RootCAs // nil without Config.TLS.CAFile
	endpoints []string          // in the format of client/v3; empty until they are looked up
}

// newSettings validates everything that can be validated without the network, and returns all
// errors.
func newSettings(op string, cfg Config, opts []Option) (*settings, error) {
	s := &settings{options: newOptions(opts)}
	if cfg.DiscoverySRV != "" && cfg.Endpoints != nil {
		s.errs.add("both endpoints and discoverySRV")
	}
	cfg = cfg.withDefaults()
	cfg.validate(&s.errs)
	if err := cfg.Retry.Validate(); err != nil {
		s.errs = append(s.errs, err)
	}
	if s.options.namespace == nil {
		s.options.namespace = &cfg.Namespace
	}
	s.setNamespace()
	s.setTLS(cfg)
	s.setCredentials(cfg)
	if cfg.DiscoverySRV == "" {
		s.setEndpoints(cfg, cfg.Endpoints)
	}
	s.cfg = cfg.redacted()
	s.cfg.Namespace = s.namespace
	return s, s.errs.join(op)
}

func (s *settings) setNamespace() {
	if s.options.namespace == nil {
		return
	}
	ns, err := keyspace.Dir(*s.options.namespace)
	if err != nil {
		s.errs = append(s.errs, err)
	}
	s.namespace = ns
}

// setTLS selects the only source of TLS settings. Without any, tls stays nil.
func (s *settings) setTLS(cfg Config) {
	hasFiles := cfg.TLS != TLSConfig{}
	switch {
	case s.tls != nil && hasFiles:
		s.errs.add("both WithTLS and tls files")
	case hasFiles:
		s.loadTLS(cfg.TLS)
	case s.tls == nil:
		return
	case s.tls.MinVersion != 0 && s.tls.MinVersion < tls.VersionTLS12:
		s.errs.add("WithTLS: the minimum version %s is below TLS 1.2", tls.VersionName(s.tls.MinVersion))
	}
	s.requireTLS12()
	if cfg.DiscoverySRV != "" && s.tls.ServerName == "" {
		s.tls.ServerName = cfg.DiscoverySRV
	}
}

// loadTLS reads the files of c.
func (s *settings) loadTLS(c TLSConfig) {
	s.tls = &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         c.ServerName,
		InsecureSkipVerify: c.InsecureSkipVerifyForTests, //nolint:gosec // the name of the field is the warning
	}
	var err error
	if c.CAFile != "" {
		if s.roots, err = endpoint.LoadRootCAs(c.CAFile, s.logger); err != nil {
			s.errs.add("tls: caFile %s: %v", c.CAFile, err)
		}
	}
	switch {
	case c.CertFile != "" && c.KeyFile != "":
		if s.tls.GetClientCertificate, err = endpoint.LoadClientCertificate(c.CertFile, c.KeyFile, s.logger); err != nil {
			s.errs.add("tls: client certificate: %v", err)
		}
	case c.CertFile != "":
		s.errs.add("tls: certFile without keyFile")
	case c.KeyFile != "":
		s.errs.add("tls: keyFile without certFile")
	}
}

// requireTLS12 enables TLS with a minimum version of 1.2.
func (s *settings) requireTLS12() {
	if s.tls == nil {
		s.tls = &tls.Config{}
	}
	s.tls.MinVersion = max(s.tls.MinVersion, tls.VersionTLS12)
}

// setCredentials selects the only source of credentials.
func (s *settings) setCredentials(cfg Config) {
	s.token = cfg.Token.Reveal()
	if s.credentials != nil {
		if cfg.Username != "" || !cfg.Password.IsZero() || cfg.PasswordFile != "" || !cfg.Token.IsZero() {
			s.errs.add("both WithCredentials and credentials in the configuration")
		}
		return
	}
	s.credentials = cfg.credentials()
	if cfg.PasswordFile != "" {
		if _, err := readPassword(cfg.PasswordFile); err != nil {
			s.errs.add("passwordFile: %v", err)
		}
	}
}

// setEndpoints validates the endpoints and enables TLS if one of them requires it.
func (s *settings) setEndpoints(cfg Config, list []string) {
	eps, all := endpoint.ParseAll(list)
	requireTLS := slices.ContainsFunc(eps, endpoint.Endpoint.RequiresTLS)
	private := (s.credentials != nil || s.token != "") && !cfg.AllowInsecureCredentials && !requireTLS
	formatted, formatErrs := endpoint.Format(eps, s.tls != nil, private)
	s.endpoints, s.errs = formatted, append(append(s.errs, all...), formatErrs...)
	if requireTLS {
		s.requireTLS12()
	}
}

// lookupEndpoints looks up the endpoints if DiscoverySRV is set, and validates them like configured
// ones.
func (s *settings) lookupEndpoints(ctx context.Context, cfg Config) error {
	if cfg.DiscoverySRV == "" {
		return nil
	}
	list, err := endpoint.LookupSRV(ctx, s.lookup, cfg.DiscoverySRV, s.tls != nil)
	if err != nil {
		return err
	}
	s.setEndpoints(cfg, list)
	if s.tls != nil && s.tls.ServerName == "" {
		s.tls.ServerName = cfg.DiscoverySRV
	}
	return errors.Join(s.errs...)
}
