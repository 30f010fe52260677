package etcdkit

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/etcdkit/etcdkit/internal/auth"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
)

// Defaults of a [Config].
const (
	defaultEndpoint     = "localhost:2379"
	defaultDialTimeout  = 5 * time.Second
	defaultReadTimeout  = 5 * time.Second
	defaultWriteTimeout = 10 * time.Second
	defaultSessionTTL   = 15 * time.Second
)

// minKeepAliveTime is the shortest Config.KeepAlive.Time. gRPC silently raises anything shorter.
const minKeepAliveTime = 10 * time.Second

// Config contains the addresses of etcd and the settings of the connection. [LoadConfig] reads it
// from a YAML or JSON file, [ConfigFromEnv] from the environment. The json tags give the field
// names in files. The zero value of each field selects its default, and the zero Config connects to
// a development etcd on the local machine.
//
// [Open] and [OpenLazy] validate a Config and report all errors at once. Nothing is validated
// before.
type Config struct {
	// Endpoints are the client addresses of the members: "host", "host:port", "http://host:port",
	// "https://host:port", "unix:///path" or "unixs:///path". The default port is 2379. Default:
	// localhost:2379.
	//
	// An address without a scheme uses TLS if TLS is configured or another address has the scheme
	// https. Mixing http and https is an error, because client/v3 would use the scheme of the first
	// address for all.
	Endpoints []string `json:"endpoints,omitzero"`

	// DiscoverySRV is the DNS domain in which to look up the endpoints, instead of Endpoints. The
	// records are _etcd-client-ssl._tcp (TLS) or, if there are none, _etcd-client._tcp. If TLS is
	// configured, only the first kind is used. The servers' certificates must be valid for this
	// domain, which protects against forged records.
	DiscoverySRV string `json:"discoverySRV,omitzero"`

	// Username and Password log in to an etcd with authentication enabled. Username requires
	// Password or PasswordFile, and each of these requires Username.
	Username string `json:"username,omitzero"`
	Password Secret `json:"password,omitzero"`

	// PasswordFile is a file that contains the password, instead of Password. It is read on every
	// login, so that a rotated password needs no restart. One line break at its end is ignored.
	PasswordFile string `json:"passwordFile,omitzero"`

	// Token is an existing token, such as a JWT, instead of a user and password. It is never
	// renewed.
	Token Secret `json:"token,omitzero"`

	// TLS names certificate files. Default: the system's root certificates and no client
	// certificate.
	TLS TLSConfig `json:"tls,omitzero"`

	// Namespace is a dir. The packages of the client read and write only keys below it. Default:
	// none.
	Namespace string `json:"namespace,omitzero"`

	// DialTimeout bounds Open and each login. Default 5s.
	DialTimeout Duration `json:"dialTimeout,omitzero"`

	// KeepAlive detects dead connections while calls or watches are open. Default 10s / 4s. A
	// server whose --grpc-keepalive-min-time is more than 10s closes the connection; set a longer
	// Time for it.
	KeepAlive KeepAlive `json:"keepAlive,omitzero"`

	// ReadTimeout and WriteTimeout bound calls whose context has no deadline. Default 5s and 10s. A
	// server gives up on a write after 7s; a shorter WriteTimeout expires before that error
	// arrives.
	ReadTimeout  Duration `json:"readTimeout,omitzero"`
	WriteTimeout Duration `json:"writeTimeout,omitzero"`

	// SessionTTL is the TTL of the client's shared session: how long locks, leaderships and
	// sessions of this process outlive it if it crashes. Registrations have discovery.WithTTL
	// instead. It must be a whole number of seconds. Default 15s. A server with default timing
	// grants at least 2s.
	SessionTTL Duration `json:"sessionTTL,omitzero"`

	// Retry configures how often and how fast failed calls are repeated if that is safe.
	Retry kv.RetryPolicy `json:"retry,omitzero"`

	// AllowInsecureCredentials allows a password or token to be sent over the network without TLS.
	// Loopback addresses and unix sockets are always allowed.
	AllowInsecureCredentials bool `json:"allowInsecureCredentials,omitzero"`
}

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

// KeepAlive configures keepalive pings. A ping is sent after Time without traffic, which must be at
// least 10s. The connection is closed if nothing is received within Timeout.
type KeepAlive struct {
	Time    Duration `json:"time,omitzero"`
	Timeout Duration `json:"timeout,omitzero"`
}

// withDefaults replaces zero fields by their defaults.
func (c Config) withDefaults() Config {
	if c.Endpoints == nil && c.DiscoverySRV == "" {
		c.Endpoints = []string{defaultEndpoint}
	}
	setDefault(&c.DialTimeout, defaultDialTimeout)
	setDefault(&c.KeepAlive.Time, wire.KeepAliveTime)
	setDefault(&c.KeepAlive.Timeout, wire.KeepAliveTimeout)
	setDefault(&c.ReadTimeout, defaultReadTimeout)
	setDefault(&c.WriteTimeout, defaultWriteTimeout)
	setDefault(&c.SessionTTL, defaultSessionTTL)
	return c
}

func setDefault(d *Duration, def time.Duration) {
	if *d == 0 {
		*d = Duration(def)
	}
}

// validate validates everything except the endpoints. c has its defaults.
func (c Config) validate(errs *validationErrors) {
	for _, d := range []struct {
		name  string
		value Duration
	}{
		{"dialTimeout", c.DialTimeout},
		{"keepAlive.timeout", c.KeepAlive.Timeout},
		{"readTimeout", c.ReadTimeout},
		{"writeTimeout", c.WriteTimeout},
	} {
		if d.value < 0 {
			errs.add("%s %v is negative", d.name, d.value)
		}
	}
	if t := time.Duration(c.KeepAlive.Time); t < minKeepAliveTime {
		errs.add("keepAlive.time %v is below the minimum of gRPC, %v", t, minKeepAliveTime)
	}
	if t := time.Duration(c.SessionTTL); t < time.Second || t%time.Second != 0 {
		errs.add("sessionTTL %v is not a positive number of whole seconds", t)
	}
	c.validateCredentials(errs)
}

// validateCredentials reports incomplete and conflicting credentials.
func (c Config) validateCredentials(errs *validationErrors) {
	hasPassword := !c.Password.IsZero() || c.PasswordFile != ""
	switch {
	case c.Username != "" && !hasPassword:
		errs.add("username without password: etcd would be used unauthenticated")
	case c.Username == "" && hasPassword:
		errs.add("password without username")
	}
	if !c.Password.IsZero() && c.PasswordFile != "" {
		errs.add("both password and passwordFile")
	}
	if !c.Token.IsZero() && (c.Username != "" || hasPassword) {
		errs.add("both a token and a user with password")
	}
}

// credentials returns the source of user and password, or nil if there is none.
func (c Config) credentials() auth.CredentialsFunc {
	switch {
	case c.Username == "":
		return nil
	case c.PasswordFile != "":
		user, path := c.Username, c.PasswordFile
		return func(context.Context) (string, string, error) {
			password, err := readPassword(path)
			return user, password, err
		}
	}
	user, password := c.Username, c.Password.Reveal()
	return func(context.Context) (string, string, error) { return user, password, nil }
}

// readPassword reads a password file. It removes the line break that editors and "kubectl create
// secret" add at the end.
func readPassword(path string) (string, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the path is the user's configuration
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"), nil
}

// redacted returns a copy of the configuration for printing. The secrets are replaced, so that no
// verb or encoding can reveal them.
func (c Config) redacted() Config {
	if !c.Password.IsZero() {
		c.Password = NewSecret(redactedText)
	}
	if !c.Token.IsZero() {
		c.Token = NewSecret(redactedText)
	}
	return c
}

// Duration is a time.Duration that configuration files write as a string, such as "5s" or "1m30s".
// A bare number is an error, because its unit would be unclear.
type Duration time.Duration

// String formats the duration as in files.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText formats the duration as in files, such as "5s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText parses text with [time.ParseDuration].
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %q is not of the form \"5s\"", text)
	}
	*d = Duration(v)
	return nil
}

// UnmarshalJSON parses a string such as "5s". null leaves the duration unchanged.
func (d *Duration) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("duration %s is not of the form \"5s\"", data)
	}
	return d.UnmarshalText([]byte(text))
}
