package settings

import (
	"reflect"

	"github.com/etcdkit/etcdkit"
)

// WithEnvironment is a configuration over which the environment wins: what a variable of [etcdkit.ConfigFromEnv] says
// replaces what base says. Of things that exclude each other the environment's is kept: its password instead of a password
// file, its token instead of a user, its endpoints instead of a domain to look them up in.
func WithEnvironment(base etcdkit.Config) (etcdkit.Config, error) {
	env, err := etcdkit.ConfigFromEnv()
	if err != nil {
		return etcdkit.Config{}, err
	}
	return overlay(base, env), nil
}

// overlay is base with what over says.
func overlay(base, over etcdkit.Config) etcdkit.Config {
	switch {
	case over.Endpoints != nil:
		base.DiscoverySRV = ""
	case over.DiscoverySRV != "":
		base.Endpoints = nil
	}
	switch {
	case over.Token != "":
		base.Username, base.Password, base.PasswordFile = "", "", ""
	case over.Username != "" || over.Password != "" || over.PasswordFile != "":
		base.Token = ""
	}
	if over.Password != "" || over.PasswordFile != "" {
		base.Password, base.PasswordFile = "", ""
	}
	fill(reflect.ValueOf(&base).Elem(), reflect.ValueOf(over))
	return base
}

// fill copies the fields of from that are set, field by field also where they are structs.
func fill(into, from reflect.Value) {
	for i := range from.NumField() {
		switch f := from.Field(i); {
		case f.Kind() == reflect.Struct:
			fill(into.Field(i), f)
		case !f.IsZero():
			into.Field(i).Set(f)
		}
	}
}
