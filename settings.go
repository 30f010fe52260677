package etcdkit

import (
	"crypto/tls"
	"crypto/x509"
	"slices"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// settings is a validated configuration with its options.
type settings struct {
	options

	cfg       Config // with defaults, without secrets
	namespace string // normalized
	token     string
	roots     *reloader[*x509.CertPool] // nil without Config.TLS.CAFile
	endpoints []string                  // in the format of client/v3; empty until they are looked up
}

// newSettings validates everything that can be validated without the network, and returns all
// errors.
func newSettings(op string, cfg Config, opts []Option) (*settings, error) {
	s := &settings{options: newOptions(opts)}
	bad := &s.bad
	if cfg.DiscoverySRV != "" && cfg.Endpoints != nil {
		bad.add("both endpoints and discoverySRV")
	}
	cfg = cfg.withDefaults()
	cfg.check(bad)
	if err := cfg.Retry.Validate(); err != nil {
		*bad = append(*bad, err)
	}
	if s.options.namespace == nil {
		s.options.namespace = &cfg.Namespace
	}
	s.setNamespace(bad)
	s.setTLS(cfg, bad)
	s.setCredentials(cfg, bad)
	if cfg.DiscoverySRV == "" {
		s.setEndpoints(cfg, cfg.Endpoints, bad)
	}
	s.cfg = cfg.shown()
	s.cfg.Namespace = s.namespace
	return s, s.bad.err(op)
}

func (s *settings) setNamespace(bad *complaints) {
	if s.options.namespace == nil {
		return
	}
	ns, err := keyspace.Dir(*s.options.namespace)
	if err != nil {
		*bad = append(*bad, err)
	}
	s.namespace = ns
}

// setTLS selects the only source of TLS settings. Without any, tls stays nil.
func (s *settings) setTLS(cfg Config, bad *complaints) {
	files := cfg.TLS != TLSConfig{}
	switch {
	case s.tls != nil && files:
		bad.add("both WithTLS and tls files")
	case files:
		c, roots, err := cfg.TLS.load(s.logger)
		if err != nil {
			bad.add("tls: %v", err)
		}
		s.tls, s.roots = c, roots
	case s.tls == nil:
		return
	case s.tls.MinVersion != 0 && s.tls.MinVersion < tls.VersionTLS12:
		bad.add("WithTLS: %s is allowed; TLS 1.2 is the least", tls.VersionName(s.tls.MinVersion))
	}
	s.insist()
	if cfg.DiscoverySRV != "" && s.tls.ServerName == "" {
		s.tls.ServerName = cfg.DiscoverySRV
	}
}

// insist enables TLS with a minimum version of 1.2.
func (s *settings) insist() {
	if s.tls == nil {
		s.tls = &tls.Config{}
	}
	s.tls.MinVersion = max(s.tls.MinVersion, tls.VersionTLS12)
}

// setCredentials selects the only source of credentials.
func (s *settings) setCredentials(cfg Config, bad *complaints) {
	s.token = cfg.Token.Reveal()
	if s.credentials != nil {
		if cfg.Username != "" || !cfg.Password.IsZero() || cfg.PasswordFile != "" || !cfg.Token.IsZero() {
			bad.add("both WithCredentials and credentials in the configuration")
		}
		return
	}
	s.credentials = cfg.credentials()
	if cfg.PasswordFile != "" {
		if _, err := readPassword(cfg.PasswordFile); err != nil {
			bad.add("passwordFile: %v", err)
		}
	}
}

// setEndpoints validates the endpoints and enables TLS if one of them has an https scheme.
func (s *settings) setEndpoints(cfg Config, list []string, bad *complaints) {
	eps := parseEndpoints(list, bad)
	https := slices.ContainsFunc(eps, endpoint.secure)
	private := (s.credentials != nil || s.token != "") && !cfg.AllowInsecureCredentials && !https
	s.endpoints = checkEndpoints(eps, s.tls != nil, private, bad)
	if https {
		s.insist()
	}
}

// checkEndpoints validates endpoints against the TLS settings, and returns them in the format of
// client/v3. secure means that TLS is configured, private that credentials must not be sent over
// the network without it.
func checkEndpoints(eps []endpoint, secure, private bool, bad *complaints) []string {
	out := make([]string, len(eps))
	for i, e := range eps {
		if e.plain() && secure {
			bad.add("endpoint %s says http, but TLS is configured: it would not be used", e)
		}
		if private && !secure && !e.local() {
			bad.add("credentials would be sent to %s in clear text: use https, or set allowInsecureCredentials", e)
		}
		out[i] = e.String()
	}
	return out
}
