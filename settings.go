package etcdkit

import (
	"crypto/tls"
	"crypto/x509"
	"slices"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// settings is a configuration and its options, checked and made ready for use.
type settings struct {
	options

	cfg       Config // with its defaults, and without its secrets
	namespace string // normalised
	token     string
	roots     *reloader[*x509.CertPool] // nil without Config.TLS.CAFile
	endpoints []string                  // as client/v3 reads them; empty as long as they have to be looked up
}

// newSettings checks everything that can be checked without the network, and tells all of what is wrong.
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

// setTLS settles on one source of TLS settings; without any, tls stays nil.
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

// insist makes TLS 1.2 the least.
func (s *settings) insist() {
	if s.tls == nil {
		s.tls = &tls.Config{}
	}
	s.tls.MinVersion = max(s.tls.MinVersion, tls.VersionTLS12)
}

// setCredentials settles on one source of credentials.
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

// setEndpoints checks the endpoints, against each other and against the rest, and decides about TLS.
func (s *settings) setEndpoints(cfg Config, list []string, bad *complaints) {
	eps := parseEndpoints(list, bad)
	https := slices.ContainsFunc(eps, endpoint.secure)
	private := (s.credentials != nil || s.token != "") && !cfg.AllowInsecureCredentials && !https
	s.endpoints = checkEndpoints(eps, s.tls != nil, private, bad)
	if https {
		s.insist()
	}
}

// checkEndpoints checks endpoints against the TLS settings, and returns them as client/v3 reads them. secure says that TLS
// is configured, private that credentials must not cross the network without it.
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
