// Package settings reads etcd.yaml, the one file that the examples are configured by: how etcd is reached, what the cache
// keeps, what is watched, and where the REST gateway listens.
//
//	s, err := settings.Load("etcd.yaml")
//	if err != nil {
//		return err
//	}
//	client, err := etcdkit.Open(ctx, s.Etcd)
//
// The file is read by [etcdkit.UnmarshalStrict]: a field that does not exist or has other capitals, one that is there twice, and
// a second document are errors, since what is misspelt would silently be the default otherwise. examples/etcd.yaml names every
// field and its default.
package settings

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
)

// Settings is the whole file. The zero value of a field of Etcd is its default, which etcdkit fills in; the other sections
// hold their defaults already when they come from [Default] or [Load].
type Settings struct {
	Etcd    etcdkit.Config `json:"etcd"`
	Cache   Cache          `json:"cache"`
	Watch   Watch          `json:"watch"`
	Gateway Gateway        `json:"gateway"`
}

// Cache is how reads are answered from memory.
type Cache struct {
	// TTL bounds how long an entry is kept, changed or not. Default 5m.
	TTL etcdkit.Duration `json:"ttl"`
	// MaxEntries bounds how many keys are kept, absent ones included. Default 1000.
	MaxEntries int `json:"maxEntries"`
	// MaxStaleness bounds how old an answer may be while etcd cannot be watched; 2s at least. Default 10s.
	MaxStaleness etcdkit.Duration `json:"maxStaleness"`
}

// Watch is what is kept up to date by watches instead of being read again.
type Watch struct {
	// Enabled opens watches: for the cache, and for the services that are asked for. Without them everything is
	// read from etcd each time. Default true.
	Enabled bool `json:"enabled"`
	// MaxServices bounds how many services are watched at a time. Default 100.
	MaxServices int `json:"maxServices"`
	// Idle is for how long a service is watched that nobody asks for. Default 1m.
	Idle etcdkit.Duration `json:"idle"`
}

// Gateway is the REST service.
type Gateway struct {
	// Listen is the address. Anything but the loopback needs a token. Default 127.0.0.1:8080.
	Listen string `json:"listen"`
	// TokenFile holds the bearer token that requests have to carry, 16 bytes at least. Default: none.
	TokenFile string `json:"tokenFile"`
	// RegistrationTTL is how long the instances that were registered here outlive the gateway. Default 30s.
	RegistrationTTL etcdkit.Duration `json:"registrationTTL"`
	// Limits is what a client may ask for.
	Limits Limits `json:"limits"`
}

// Limits bounds what one request, and all of them together, may cost.
type Limits struct {
	BodyBytes     int64            `json:"bodyBytes"`     // of a request; default 1.5 MiB, which etcd takes, and 64 KiB
	HeaderBytes   int              `json:"headerBytes"`   // of a request; default 16 KiB
	HeaderTimeout etcdkit.Duration `json:"headerTimeout"` // for the header to arrive; default 5s
	ReadTimeout   etcdkit.Duration `json:"readTimeout"`   // for header and body to arrive; default 15s
	Request       etcdkit.Duration `json:"request"`       // for the work on a request; default 20s
	IdleTimeout   etcdkit.Duration `json:"idleTimeout"`   // of a connection between requests; default 1m
	Shutdown      etcdkit.Duration `json:"shutdown"`      // for requests under way to finish; default 15s
	Connections   int              `json:"connections"`   // open at a time, idle ones included; default 1024
	Concurrent    int              `json:"concurrent"`    // requests at a time, until they are answered; default 256
	PageEntries   int              `json:"pageEntries"`   // entries of one answer; default 1000
	PageBytes     int              `json:"pageBytes"`     // keys and values of one answer, as sent; default 8 MiB
	Registrations int              `json:"registrations"` // instances registered here at a time; default 1000
}

// Default is what holds where the file says nothing.
func Default() Settings {
	d := func(d time.Duration) etcdkit.Duration { return etcdkit.Duration(d) }
	return Settings{
		Cache: Cache{TTL: d(cache.DefaultTTL), MaxEntries: cache.DefaultMaxEntries, MaxStaleness: d(cache.DefaultMaxStaleness)},
		Watch: Watch{Enabled: true, MaxServices: 100, Idle: d(time.Minute)},
		Gateway: Gateway{
			Listen: "127.0.0.1:8080", RegistrationTTL: d(30 * time.Second),
			Limits: Limits{
				BodyBytes: 3<<19 + 64<<10, HeaderBytes: 16 << 10, HeaderTimeout: d(5 * time.Second),
				ReadTimeout: d(15 * time.Second), Request: d(20 * time.Second), IdleTimeout: d(time.Minute),
				Shutdown: d(15 * time.Second), Connections: 1024, Concurrent: 256, PageEntries: 1000, PageBytes: 8 << 20, Registrations: 1000,
			},
		},
	}
}

// Load reads a file. What it does not say is as in [Default].
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

// Parse reads the content of a file. Its errors quote no value, which may be a password.
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

// check complains about everything that is wrong, except with the section Etcd, which etcdkit checks when it opens a client.
func (s *Settings) check() error {
	var validationErr []error
	for _, one := range []struct {
		name string
		ok   bool
		want string
	}{
		{"cache.ttl", s.Cache.TTL > 0, "positive"},
		{"cache.maxEntries", s.Cache.MaxEntries > 0, "positive"},
		{"cache.maxStaleness", time.Duration(s.Cache.MaxStaleness) >= 2*time.Second, "2s at least"},
		{"watch.maxServices", s.Watch.MaxServices > 0, "positive"},
		{"watch.idle", s.Watch.Idle > 0, "positive"},
		{"gateway.listen", s.Gateway.Listen != "", "an address"},
		{"gateway.registrationTTL", time.Duration(s.Gateway.RegistrationTTL) >= time.Second, "1s at least"},
	} {
		if !one.ok {
			validationErr = append(validationErr, fmt.Errorf("%s must be %s", one.name, one.want))
		}
	}
	return errors.Join(append(validationErr, s.Gateway.Limits.check()...)...)
}

func (l *Limits) check() (validationErr []error) {
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
			validationErr = append(validationErr, fmt.Errorf("gateway.limits.%s must be positive", one.name))
		}
	}
	return validationErr
}
