package etcdkit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// LoadConfig reads a [Config] from a file: JSON if its name ends in ".json", else YAML. Unknown and repeated fields, also
// those that differ in case only, and a second document are errors. A secret has to be a string, in quotes when it could
// be taken for something else. Relative paths in the file are relative to the working directory. An empty file is the zero Config.
//
//	endpoints: [https://etcd-1:2379, https://etcd-2:2379, https://etcd-3:2379]
//	username: orders
//	passwordFile: /run/secrets/etcd
//	tls: {caFile: /etc/etcd/ca.pem}
//	namespace: orders/
//	readTimeout: 2s
//
// An error about the content matches [ErrInvalid] and holds no value of a secret.
func LoadConfig(path string) (Config, error) {
	const op = "load config"
	data, err := os.ReadFile(path) //nolint:gosec // the path is the caller's
	if err != nil {
		return Config{}, refuse(op, err)
	}
	if !strings.EqualFold(filepath.Ext(path), ".json") {
		if data, err = fromYAML(data); err != nil {
			return Config{}, refuse(op, fmt.Errorf("%w: %s: %w", ErrInvalid, path, err))
		}
	}
	var cfg Config
	if err := decodeStrict(data, &cfg); err != nil {
		return Config{}, refuse(op, fmt.Errorf("%w: %s: %w", ErrInvalid, path, err))
	}
	return cfg, nil
}

// ConfigFromEnv reads a [Config] from the environment. A variable that is unset or empty leaves its field at the default.
//
//	ETCD_ENDPOINTS                   addresses, separated by commas
//	ETCD_DISCOVERY_SRV               DNS domain to look the endpoints up in
//	ETCD_USERNAME, ETCD_PASSWORD     user and password
//	ETCD_PASSWORD_FILE               file that holds the password instead
//	ETCD_TOKEN                       token instead of user and password
//	ETCD_ALLOW_INSECURE_CREDENTIALS  true: credentials may cross the network without TLS
//	ETCD_NAMESPACE                   dir that everything lies below
//	ETCD_CACERT                      CA certificates, PEM file
//	ETCD_CERT, ETCD_KEY              client certificate and key, PEM files
//	ETCD_SERVER_NAME                 name in the servers' certificates
//	ETCD_DIAL_TIMEOUT                such as 5s; likewise
//	ETCD_READ_TIMEOUT, ETCD_WRITE_TIMEOUT, ETCD_SESSION_TTL,
//	ETCD_KEEPALIVE_TIME, ETCD_KEEPALIVE_TIMEOUT
//
// The error names all variables that cannot be read and matches [ErrInvalid].
func ConfigFromEnv() (Config, error) {
	return Config{}.withEnv("config from env")
}

// WithEnv returns the configuration with what the environment says in the place of what c says; the variables are those of
// [ConfigFromEnv], and the error is its, too. Of things that exclude each other the environment's stays alone: its password
// without a password file of c, its token without a user, its user without a token, its endpoints without a domain.
//
//	cfg, err := etcdkit.LoadConfig("etcd.yaml")
//	...
//	cfg, err = cfg.WithEnv()
func (c Config) WithEnv() (Config, error) { return c.withEnv("config with env") }

func (c Config) withEnv(op string) (Config, error) {
	cfg := withoutRivals(c)
	if list := os.Getenv("ETCD_ENDPOINTS"); list != "" {
		cfg.Endpoints = []string{}
		for e := range strings.SplitSeq(list, ",") {
			cfg.Endpoints = append(cfg.Endpoints, strings.TrimSpace(e))
		}
	}
	for _, v := range []struct {
		name string
		into *string
	}{
		{"ETCD_DISCOVERY_SRV", &cfg.DiscoverySRV},
		{"ETCD_USERNAME", &cfg.Username},
		{"ETCD_PASSWORD_FILE", &cfg.PasswordFile},
		{"ETCD_NAMESPACE", &cfg.Namespace},
		{"ETCD_CACERT", &cfg.TLS.CAFile},
		{"ETCD_CERT", &cfg.TLS.CertFile},
		{"ETCD_KEY", &cfg.TLS.KeyFile},
		{"ETCD_SERVER_NAME", &cfg.TLS.ServerName},
	} {
		if text := os.Getenv(v.name); text != "" {
			*v.into = text
		}
	}
	if text := os.Getenv("ETCD_PASSWORD"); text != "" {
		cfg.Password = NewSecret(text)
	}
	if text := os.Getenv("ETCD_TOKEN"); text != "" {
		cfg.Token = NewSecret(text)
	}
	var bad complaints
	durationsFromEnv(&cfg, &bad)
	if text := os.Getenv("ETCD_ALLOW_INSECURE_CREDENTIALS"); text != "" {
		allow, err := strconv.ParseBool(text)
		if err != nil {
			bad.add("ETCD_ALLOW_INSECURE_CREDENTIALS: %q is neither true nor false", text)
		}
		cfg.AllowInsecureCredentials = allow
	}
	if err := bad.err(op); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// withoutRivals is c without what excludes something that the environment says.
func withoutRivals(c Config) Config {
	says := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return os.Getenv(name) != "" })
	}
	switch {
	case says("ETCD_ENDPOINTS"):
		c.DiscoverySRV = ""
	case says("ETCD_DISCOVERY_SRV"):
		c.Endpoints = nil
	}
	secret := says("ETCD_PASSWORD", "ETCD_PASSWORD_FILE")
	switch {
	case says("ETCD_TOKEN"):
		c.Username, c.Password, c.PasswordFile = "", Secret{}, ""
	case secret, says("ETCD_USERNAME"):
		c.Token = Secret{}
	}
	if secret {
		c.Password, c.PasswordFile = Secret{}, ""
	}
	return c
}

// durationsFromEnv reads the variables that hold a duration.
func durationsFromEnv(c *Config, bad *complaints) {
	for _, v := range []struct {
		name string
		into *Duration
	}{
		{"ETCD_DIAL_TIMEOUT", &c.DialTimeout},
		{"ETCD_READ_TIMEOUT", &c.ReadTimeout},
		{"ETCD_WRITE_TIMEOUT", &c.WriteTimeout},
		{"ETCD_SESSION_TTL", &c.SessionTTL},
		{"ETCD_KEEPALIVE_TIME", &c.KeepAlive.Time},
		{"ETCD_KEEPALIVE_TIMEOUT", &c.KeepAlive.Timeout},
	} {
		if text := os.Getenv(v.name); text != "" {
			if err := v.into.UnmarshalText([]byte(text)); err != nil {
				bad.add("%s: %v", v.name, err)
			}
		}
	}
}
