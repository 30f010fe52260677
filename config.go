package etcdkit

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
)

// The defaults of a [Config].
const (
	defaultEndpoint   = "localhost:2379"
	defaultDial       = 5 * time.Second
	defaultRead       = 5 * time.Second
	defaultWrite      = 10 * time.Second
	defaultSessionTTL = 15 * time.Second
	keepAliveLeast    = 10 * time.Second // gRPC silently raises anything shorter
)

// Config says where etcd is and how to talk to it. [LoadConfig] reads it from a YAML or JSON file, [ConfigFromEnv] from
// the environment; field names in files are those of the json tags. The zero value of each field is its default, and
// the zero Config is a client of a development etcd on this machine.
//
// Nothing is checked before [Open] or [OpenLazy], which report everything that is wrong at once.
type Config struct {
	// Endpoints are the members' client addresses: "host", "host:port", "http://host:port", "https://host:port",
	// "unix:///path", "unixs:///path". A missing port is 2379. Default: localhost:2379.
	//
	// An address without a scheme uses TLS when TLS is configured or another address says https. Mixed schemes are
	// refused, because client/v3 would use the first one's for all.
	Endpoints []string `json:"endpoints,omitzero"`

	// DiscoverySRV is a DNS domain to look the endpoints up in, instead of Endpoints: the records
	// _etcd-client-ssl._tcp (TLS), and without those _etcd-client._tcp. Once TLS is configured only the first kind
	// counts. With it, certificates have to be valid for this domain, so that a forged record is of no use.
	DiscoverySRV string `json:"discoverySRV,omitzero"`

	// Username and Password log in to an etcd that has authentication enabled. They go together.
	Username string `json:"username,omitzero"`
	Password Secret `json:"password,omitzero"`

	// PasswordFile holds the password instead. It is read again on every login, so that a rotated password needs no
	// restart. One line break at its end is not part of the password.
	PasswordFile string `json:"passwordFile,omitzero"`

	// Token is a ready-made token, such as a JWT, instead of a user. It is never renewed.
	Token Secret `json:"token,omitzero"`

	// TLS names certificate files. Default: the system's roots, no client certificate.
	TLS TLSConfig `json:"tls,omitzero"`

	// Namespace is a dir; the parts of the client see and write only what is below it. Default: none.
	Namespace string `json:"namespace,omitzero"`

	// DialTimeout bounds Open and each login. Default 5s.
	DialTimeout Duration `json:"dialTimeout,omitzero"`

	// KeepAlive finds connections whose other end has gone silent, while calls or watches are open. Default 10s / 4s. A server
	// whose --grpc-keepalive-min-time is more than 10s closes the connection, and needs a longer time here.
	KeepAlive KeepAlive `json:"keepAlive,omitzero"`

	// ReadTimeout and WriteTimeout bound calls whose context has no deadline. Default 5s and 10s: a server gives up on
	// a write after 7s, and below that its refusal is never heard.
	ReadTimeout  Duration `json:"readTimeout,omitzero"`
	WriteTimeout Duration `json:"writeTimeout,omitzero"`

	// SessionTTL is how long locks, leaderships and sessions of this process outlive it when it dies; registrations have
	// discovery.WithTTL. It is the TTL of the client's shared session. Whole seconds; default 15s, and a server with default timing grants 2s at least.
	SessionTTL Duration `json:"sessionTTL,omitzero"`

	// Retry says how often and how fast failed calls are repeated, where that is safe.
	Retry kv.RetryPolicy `json:"retry,omitzero"`

	// AllowInsecureCredentials permits a password or token to cross the network without TLS. Loopback addresses and
	// unix sockets need no permission.
	AllowInsecureCredentials bool `json:"allowInsecureCredentials,omitzero"`
}

// KeepAlive is the pace of keepalive pings: one after Time without traffic, at least 10s, and the connection is given
// up when nothing came back within Timeout.
type KeepAlive struct {
	Time    Duration `json:"time,omitzero"`
	Timeout Duration `json:"timeout,omitzero"`
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	if c.Endpoints == nil && c.DiscoverySRV == "" {
		c.Endpoints = []string{defaultEndpoint}
	}
	orElse(&c.DialTimeout, defaultDial)
	orElse(&c.KeepAlive.Time, wire.KeepAliveTime)
	orElse(&c.KeepAlive.Timeout, wire.KeepAliveTimeout)
	orElse(&c.ReadTimeout, defaultRead)
	orElse(&c.WriteTimeout, defaultWrite)
	orElse(&c.SessionTTL, defaultSessionTTL)
	return c
}

func orElse(d *Duration, def time.Duration) {
	if *d == 0 {
		*d = Duration(def)
	}
}

// check complains about everything but the endpoints. c has its defaults.
func (c Config) check(bad *complaints) {
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
			bad.add("%s %v is negative", d.name, d.value)
		}
	}
	if t := time.Duration(c.KeepAlive.Time); t < keepAliveLeast {
		bad.add("keepAlive.time %v is below the least that gRPC accepts, %v", t, keepAliveLeast)
	}
	if t := time.Duration(c.SessionTTL); t < time.Second || t%time.Second != 0 {
		bad.add("sessionTTL %v is not a positive number of whole seconds", t)
	}
	c.checkCredentials(bad)
}

// checkCredentials complains about half a login and about two.
func (c Config) checkCredentials(bad *complaints) {
	password := !c.Password.IsZero() || c.PasswordFile != ""
	switch {
	case c.Username != "" && !password:
		bad.add("username without password: etcd would be used unauthenticated")
	case c.Username == "" && password:
		bad.add("password without username")
	}
	if !c.Password.IsZero() && c.PasswordFile != "" {
		bad.add("both password and passwordFile")
	}
	if !c.Token.IsZero() && (c.Username != "" || password) {
		bad.add("both a token and a user with password")
	}
}

// credentials returns where logins take user and password from, nil when there are none.
func (c Config) credentials() credentialsFunc {
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

// readPassword reads a password file without the line break that editors and "kubectl create secret" leave at its end.
func readPassword(path string) (string, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the path is the user's configuration
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"), nil
}

// shown is the configuration as it may be printed: the secrets are replaced, not only hidden by their type, so that
// printing it cannot reveal them by any verb or encoding. What logs in still has to hold them in memory.
func (c Config) shown() Config {
	if !c.Password.IsZero() {
		c.Password = NewSecret(redacted)
	}
	if !c.Token.IsZero() {
		c.Token = NewSecret(redacted)
	}
	return c
}
