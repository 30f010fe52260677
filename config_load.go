package etcdkit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/etcdkit/etcdkit/internal/strict"
)

// LoadConfig reads a [Config] from a file. A file whose name ends in ".json" must be JSON; any
// other is parsed as in [ParseConfig]. Relative paths in the file are relative to the working
// directory.
func LoadConfig(path string) (Config, error) {
	const op = "load config"
	data, err := os.ReadFile(path) //nolint:gosec // the path is the caller's
	if err != nil {
		return Config{}, opError(op, err)
	}
	isJSON := strings.EqualFold(filepath.Ext(path), ".json") || json.Valid(data)
	var cfg Config
	if err := unmarshalConfig(data, &cfg, isJSON); err != nil {
		return Config{}, opError(op, fmt.Errorf("%w: %s: %w", ErrInvalid, path, err))
	}
	return cfg, nil
}

// ParseConfig reads a [Config] from YAML or JSON. Unknown fields, repeated fields, fields in the
// wrong case, and a second document are errors. A secret must be a string, in quotes if YAML would
// read it as another type. An empty document yields the zero Config.
//
//	endpoints: [https://etcd-1:2379, https://etcd-2:2379, https://etcd-3:2379]
//	username: orders
//	passwordFile: /run/secrets/etcd
//	tls: {caFile: /etc/etcd/ca.pem}
//	namespace: orders/
//	readTimeout: 2s
//
// An error matches [ErrInvalid] and never quotes a value.
func ParseConfig(yamlOrJSON []byte) (Config, error) {
	var cfg Config
	if err := unmarshalConfig(yamlOrJSON, &cfg, json.Valid(yamlOrJSON)); err != nil {
		return Config{}, opError("parse config", fmt.Errorf("%w: %w", ErrInvalid, err))
	}
	return cfg, nil
}

// UnmarshalStrict reads YAML or JSON into the struct that out points to, as strictly as
// [ParseConfig]. Use it for a file that contains a [Config] as one of its sections. A field that is
// missing in the document keeps its value. After an error the contents of out are undefined.
//
//	settings := Settings{Listen: ":8080"} // the default
//	err := etcdkit.UnmarshalStrict(data, &settings)
//
// An error matches [ErrInvalid] and never quotes a value.
func UnmarshalStrict(yamlOrJSON []byte, out any) error {
	const op = "unmarshal"
	if v := reflect.ValueOf(out); v.Kind() != reflect.Pointer || v.IsNil() {
		return opError(op, fmt.Errorf("%w: %T is not a pointer to a value", ErrInvalid, out))
	}
	if err := unmarshalConfig(yamlOrJSON, out, json.Valid(yamlOrJSON)); err != nil {
		return opError(op, fmt.Errorf("%w: %w", ErrInvalid, err))
	}
	return nil
}

func unmarshalConfig(data []byte, out any, isJSON bool) error {
	switch {
	case !isJSON:
		return strict.UnmarshalYAML(data, out, strict.ExactCase)
	case len(bytes.TrimSpace(data)) == 0: // like empty YAML
		return nil
	}
	return strict.UnmarshalJSON(data, out, strict.ExactCase)
}

// ConfigFromEnv reads a [Config] from the environment. If a variable is unset or empty, its field
// keeps the default.
//
//	ETCD_ENDPOINTS                   addresses, separated by commas
//	ETCD_DISCOVERY_SRV               DNS domain to look the endpoints up in
//	ETCD_USERNAME, ETCD_PASSWORD     user and password
//	ETCD_PASSWORD_FILE               file that holds the password instead
//	ETCD_TOKEN                       token instead of user and password
//	ETCD_ALLOW_INSECURE_CREDENTIALS  true: credentials may cross the network without TLS
//	ETCD_NAMESPACE                   dir of the client's keys
//	ETCD_CACERT                      CA certificates, PEM file
//	ETCD_CERT, ETCD_KEY              client certificate and key, PEM files
//	ETCD_SERVER_NAME                 name in the servers' certificates
//	ETCD_DIAL_TIMEOUT                duration such as 5s; so are the following
//	ETCD_READ_TIMEOUT, ETCD_WRITE_TIMEOUT, ETCD_SESSION_TTL,
//	ETCD_KEEPALIVE_TIME, ETCD_KEEPALIVE_TIMEOUT
//
// The error names all variables that cannot be parsed and matches [ErrInvalid].
func ConfigFromEnv() (Config, error) {
	return Config{}.withEnv("config from env")
}

// WithEnv returns c with the fields set in the environment replaced. The variables and the error
// are those of [ConfigFromEnv]. If two settings conflict, the environment wins: a password or
// password file replaces both of c, a token removes the user and password, a user or password
// removes the token, endpoints remove the DNS domain, and a domain removes the endpoints.
//
//	cfg, err := etcdkit.LoadConfig("etcd.yaml")
//	...
//	cfg, err = cfg.WithEnv()
func (c Config) WithEnv() (Config, error) { return c.withEnv("config with env") }

func (c Config) withEnv(op string) (Config, error) {
	cfg := dropOverridden(c)
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
	var errs validationErrors
	setDurationsFromEnv(&cfg, &errs)
	if text := os.Getenv("ETCD_ALLOW_INSECURE_CREDENTIALS"); text != "" {
		allow, err := strconv.ParseBool(text)
		if err != nil {
			errs.add("ETCD_ALLOW_INSECURE_CREDENTIALS: %q is neither true nor false", text)
		}
		cfg.AllowInsecureCredentials = allow
	}
	if err := errs.join(op); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// dropOverridden returns c without the fields that conflict with the environment.
func dropOverridden(c Config) Config {
	isSet := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return os.Getenv(name) != "" })
	}
	switch {
	case isSet("ETCD_ENDPOINTS"):
		c.DiscoverySRV = ""
	case isSet("ETCD_DISCOVERY_SRV"):
		c.Endpoints = nil
	}
	hasPassword := isSet("ETCD_PASSWORD", "ETCD_PASSWORD_FILE")
	switch {
	case isSet("ETCD_TOKEN"):
		c.Username, c.Password, c.PasswordFile = "", Secret{}, ""
	case hasPassword, isSet("ETCD_USERNAME"):
		c.Token = Secret{}
	}
	if hasPassword {
		c.Password, c.PasswordFile = Secret{}, ""
	}
	return c
}

// setDurationsFromEnv reads the variables that hold a duration.
func setDurationsFromEnv(c *Config, errs *validationErrors) {
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
				errs.add("%s: %v", v.name, err)
			}
		}
	}
}
