package config

import (
	"os"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// envVars holds the environment variables that override keys.
type envVars struct {
	prefix string            // with the "_"; "" where the environment is not looked at
	vars   map[string]string // name to value
}

// newEnvVars returns the variables in all, in os.Environ's format, that start with prefix.
func newEnvVars(prefix string, all []string) envVars {
	e := envVars{prefix: prefix + "_", vars: make(map[string]string)}
	for _, entry := range all {
		if name, value, ok := strings.Cut(entry, "="); ok && strings.HasPrefix(name, e.prefix) {
			e.vars[name] = value
		}
	}
	return e
}

// lookup returns the item of key if a variable overrides it.
func (e envVars) lookup(key string) (item, bool) {
	if len(e.vars) == 0 {
		return item{}, false
	}
	name := e.prefix + envName(key)
	v, ok := e.vars[name]
	return item{value: []byte(v), origin: Environment, name: name}, ok
}

// envName returns the name of key's variable, without the prefix.
func envName(key string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, key)
}

// checkPrefix returns an error if the prefix could match unrelated variables, such as PATH.
func checkPrefix(prefix string) error {
	if prefix == "" || envName(prefix) != prefix || strings.HasSuffix(prefix, "_") {
		return errs.Invalidf("WithEnvironment: invalid prefix %q: want a form like \"SHOP\"", prefix)
	}
	return nil
}

// environ returns the variables of the process.
func (s *options) environ() envVars {
	if !s.hasEnvironment {
		return envVars{}
	}
	return newEnvVars(s.environment, os.Environ())
}
