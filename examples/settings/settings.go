// Package settings reads etcd.yaml, which configures the examples: the connection to etcd, the
// cache, watches, and the REST gateway.
//
//	s, err := settings.Load("etcd.yaml")
//	if err != nil {
//		return err
//	}
//	client, err := etcdkit.Open(ctx, s.Etcd)
//
// The file is read by [etcdkit.UnmarshalStrict]: unknown fields, fields in other case, repeated
// fields and a second document are errors, so that a misspelt setting is not ignored.
// examples/etcd.yaml has every field with its default.
package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
)

// Settings is the whole file. etcdkit replaces zero values in Etcd by its defaults; [Default] and
// [Load] set the defaults of the other sections.
type Settings struct {
	Etcd    etcdkit.Config `json:"etcd"`
	Log     Log            `json:"log"`
	Cache   Cache          `json:"cache"`
	Watch   Watch          `json:"watch"`
	Gateway Gateway        `json:"gateway"`
}

// Log configures the log of the gateway.
type Log struct {
	// Level is the least severe level that is logged: debug, info, warn or error. Default info.
	Level slog.Level `json:"level"`
}

// Cache configures reads from memory.
type Cache struct {
	// Enabled keeps a cache, if watches are enabled as well. Default true.
	Enabled bool `json:"enabled"`
	// TTL bounds how long an entry is kept, changed or not. Default 5m.
	TTL etcdkit.Duration `json:"ttl"`
	// MaxEntries bounds the number of keys, including absent ones. Default 1000.
	MaxEntries int `json:"maxEntries"`
	// MaxStaleness bounds the age of an answer while etcd cannot be watched; at least 2s. Default
	// 10s.
	MaxStaleness etcdkit.Duration `json:"maxStaleness"`
}

// Watch configures what is kept up to date by watches.
type Watch struct {
	// Enabled opens watches for the cache and for the services that clients ask for. Without
	// watches every request reads from etcd. Default true.
	Enabled bool `json:"enabled"`
	// MaxServices bounds how many services are watched at a time. Default 100.
	MaxServices int `json:"maxServices"`
	// Idle is how long a service is watched that no client asks for. Default 1m.
	Idle etcdkit.Duration `json:"idle"`
}

// Gateway configures the REST service.
type Gateway struct {
	// Listen is the address. Anything but the loopback needs a token. Default 127.0.0.1:8080.
	Listen string `json:"listen"`
	// TokenFile holds the bearer token that requests must carry, at least 16 bytes. Default: none.
	TokenFile string `json:"tokenFile"`
	// AllowBlank accepts blank values in put and compare-and-swap. Default false.
	AllowBlank bool `json:"allowBlank"`
	// HealthDetails adds a message, the number of watches and the time to the answer of
	// /api/etcd/health, which needs no token. Default true.
	HealthDetails bool `json:"healthDetails"`
	// RegistrationTTL is how long an instance stays registered without being renewed, and how long
	// it outlives a gateway that dies. Whole seconds. Default 30s.
	RegistrationTTL etcdkit.Duration `json:"registrationTTL"`
	// Limits bounds what clients may ask for.
	Limits Limits `json:"limits"`
}

// Limits bounds what one request and all requests together may cost.
type Limits struct {
	BodyBytes     int64            `json:"bodyBytes"`     // of a request; default 1.5 MiB, etcd's limit, and 64 KiB
	HeaderBytes   int              `json:"headerBytes"`   // of a request; default 16 KiB
	HeaderTimeout etcdkit.Duration `json:"headerTimeout"` // for the header to arrive; default 5s
	ReadTimeout   etcdkit.Duration `json:"readTimeout"`   // for header and body to arrive; default 15s
	Request       etcdkit.Duration `json:"request"`       // for the work on a request; default 20s
	IdleTimeout   etcdkit.Duration `json:"idleTimeout"`   // of a connection between requests; default 1m
	Shutdown      etcdkit.Duration `json:"shutdown"`      // for requests in progress to finish; default 15s
	Connections   int              `json:"connections"`   // open at a time, including idle ones; default 1024
	Concurrent    int              `json:"concurrent"`    // requests at a time; default 256
	PageEntries   int              `json:"pageEntries"`   // entries of one answer; default 1000
	PageBytes     int              `json:"pageBytes"`     // keys and values of one answer; default 8 MiB
	Registrations int              `json:"registrations"` // instances registered at a time; default 1000
}

// Default returns the defaults.
func Default() Settings {
	d := func(d time.Duration) etcdkit.Duration { return etcdkit.Duration(d) }
	return Settings{
		Cache: Cache{
			Enabled: true, TTL: d(cache.DefaultTTL), MaxEntries: cache.DefaultMaxEntries,
			MaxStaleness: d(cache.DefaultMaxStaleness),
		},
		Watch: Watch{Enabled: true, MaxServices: 100, Idle: d(time.Minute)},
		Gateway: Gateway{
			Listen: "127.0.0.1:8080", HealthDetails: true, RegistrationTTL: d(30 * time.Second),
			Limits: Limits{
				BodyBytes: 3<<19 + 64<<10, HeaderBytes: 16 << 10, HeaderTimeout: d(5 * time.Second),
				ReadTimeout: d(15 * time.Second), Request: d(20 * time.Second), IdleTimeout: d(time.Minute),
				Shutdown: d(15 * time.Second), Connections: 1024, Concurrent: 256,
				PageEntries: 1000, PageBytes: 8 << 20, Registrations: 1000,
			},
		},
	}
}

// Load reads a file. Missing settings are those of [Default].
func Load(path string) (Settings, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the path is the user's
	if err != nil {
		return Settings{}, fmt.Errorf("settings: %w", err)
	}
	s, err := Parse(data)
	if err != nil {
		return Settings{}, fmt.Errorf("settings: %s: %w", path, err)
	}
	return s, nil
}

// Parse parses the content of a file. Its errors quote no value, which may be a password.
func Parse(data []byte) (Settings, error) {
	s := Default()
	if err := etcdkit.UnmarshalStrict(data, &s); err != nil {
		return Settings{}, err
	}
	if err := s.check(); err != nil {
		return Settings{}, err
	}
	return s, nil
}

// check returns all errors in the settings but those of Etcd, which etcdkit.Open checks.
func (s *Settings) check() error {
	var errs []error
	for _, one := range []struct {
		name string
		ok   bool
		want string
	}{
		{"cache.ttl", s.Cache.TTL > 0, "positive"},
		{"cache.maxEntries", s.Cache.MaxEntries > 0, "positive"},
		{"cache.maxStaleness", time.Duration(s.Cache.MaxStaleness) >= 2*time.Second, "at least 2s"},
		{"watch.maxServices", s.Watch.MaxServices > 0, "positive"},
		{"watch.idle", s.Watch.Idle > 0, "positive"},
		{"gateway.listen", s.Gateway.Listen != "", "an address"},
		{"gateway.registrationTTL", wholeSeconds(time.Duration(s.Gateway.RegistrationTTL)), "a number of whole seconds"},
	} {
		if !one.ok {
			errs = append(errs, fmt.Errorf("%s must be %s", one.name, one.want))
		}
	}
	return errors.Join(append(errs, s.Gateway.Limits.check()...)...)
}

func wholeSeconds(d time.Duration) bool { return d >= time.Second && d%time.Second == 0 }

func (l *Limits) check() (errs []error) {
	for _, one := range []struct {
		name  string
		value int64
	}{
		{"bodyBytes", l.BodyBytes},
		{"headerBytes", int64(l.HeaderBytes)},
		{"headerTimeout", int64(l.HeaderTimeout)},
		{"readTimeout", int64(l.ReadTimeout)},
		{"request", int64(l.Request)},
		{"idleTimeout", int64(l.IdleTimeout)},
		{"shutdown", int64(l.Shutdown)},
		{"connections", int64(l.Connections)},
		{"concurrent", int64(l.Concurrent)},
		{"pageEntries", int64(l.PageEntries)},
		{"pageBytes", int64(l.PageBytes)},
		{"registrations", int64(l.Registrations)},
	} {
		if one.value <= 0 {
			errs = append(errs, fmt.Errorf("gateway.limits.%s must be positive", one.name))
		}
	}
	return errs
}
