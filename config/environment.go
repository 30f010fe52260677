package config

import (
	"os"
	"strings"
)

// envVars is the variables that override keys.
type envVars struct {
	prefix string            // with the "_"; "" where the environment is not looked at
	vars   map[string]string // by name
}

// newEnvVars takes the variables with a prefix from what os.Environ returns.
func newEnvVars(prefix string, all []string) envVars {
	e := envVars{prefix: prefix + "_", vars: make(map[string]string)}
	for _, entry := range all {
		if name, value, ok := strings.Cut(entry, "="); ok && strings.HasPrefix(name, e.prefix) {
			e.vars[name] = value
		}
	}
	return e
}

// lookup returns the item of a key, if it is overridden.
func (e envVars) lookup(key string) (item, bool) {
	if len(e.vars) == 0 {
		return item{}, false
	}
	name := e.prefix + envName(key)
	v, ok := e.vars[name]
	return item{value: []byte(v), origin: Environment, name: name}, ok
}

// envName is what a key is called in the environment.
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

// checkPrefix refuses a prefix that would let variables override keys that nobody thought of, such as PATH.
func checkPrefix(prefix string) error {
	if prefix == "" || envName(prefix) != prefix || strings.HasSuffix(prefix, "_") {
		return invalid("WithEnvironment: the prefix %q is not of the form \"SHOP\"", prefix)
	}
	return nil
}

// environ is the process's own environment.
func (s *options) environ() envVars {
	if !s.hasEnvironment {
		return envVars{}
	}
	return newEnvVars(s.environment, os.Environ())
}
