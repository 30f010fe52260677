package cache

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/logging"
)

// The defaults of the options.
const (
	DefaultMaxEntries   = 1000
	DefaultTTL          = 5 * time.Minute
	DefaultMaxStaleness = 10 * time.Second
)

// minStaleness keeps reads from asking more than once a second.
const minStaleness = 2 * time.Second

// Option is an option of [Open] or of [OpenReplica].
type Option func(*settings)

// settings is what the options add up to.
type settings struct {
	entries   int
	ttl       time.Duration
	staleness time.Duration
	logger    *slog.Logger
	lookup    func(dir string, hit bool)
	bad       func(key string, rev int64, err error)
	checked   bool

	cacheOnly   []string // options given that a Replica does not have
	replicaOnly []string // and those that a Cache does not have
}

// WithMaxEntries bounds how many keys a [Cache] keeps, absent ones included; the least recently used make room. Default
// 1,000.
func WithMaxEntries(n int) Option {
	return func(s *settings) { s.entries, s.cacheOnly = n, append(s.cacheOnly, "WithMaxEntries") }
}

// WithTTL bounds how long a [Cache] keeps what it has read, changed or not. Default 5 minutes.
func WithTTL(d time.Duration) Option {
	return func(s *settings) { s.ttl, s.cacheOnly = d, append(s.cacheOnly, "WithTTL") }
}

// WithMaxStaleness bounds how old an answer from memory may be while the watch is down: beyond it a [Cache] reads from
// etcd, and Get of a [Replica] returns [ErrStale]. A dead stream is found within 4 s of half of the bound, so with 8 s and
// more the loss of a single member goes unnoticed. Default 10 s. Less than 2 s is refused, since reads have etcd asked at
// half of the bound; math.MaxInt64 is no bound.
func WithMaxStaleness(d time.Duration) Option { return func(s *settings) { s.staleness = d } }

// WithLogger sets the logger for watches that end, a bound of staleness that is passed, and values that do not decode, all at
// the level Warn. Values never appear.
// Default: the client's logger, else [slog.Default] from the level Warn up.
func WithLogger(l *slog.Logger) Option { return func(s *settings) { s.logger = l } }

// WithLookupHook has f called at each Get of a [Cache] with its dir. It runs in the caller's goroutine: it must be quick.
// Default: that of the client's Observer.
func WithLookupHook(f func(dir string, hit bool)) Option {
	return func(s *settings) { s.lookup, s.cacheOnly = f, append(s.cacheOnly, "WithLookupHook") }
}

// WithBadEntry has f told of each value that a [Replica] is given and that does not decode. It runs in the watch's goroutine:
// it must be quick. A panic of f is contained and logged. Default: none, besides the log and the Stats.
func WithBadEntry(f func(key string, rev int64, err error)) Option {
	return func(s *settings) { s.bad, s.replicaOnly = f, append(s.replicaOnly, "WithBadEntry") }
}

// WithReadOnlyCheck finds code that changes the values it was given. It is for tests: each value is encoded when it comes in
// and again whenever it is handed out, and a difference is a panic that names the key. Default: off.
func WithReadOnlyCheck() Option { return func(s *settings) { s.checked = true } }

// newSettings applies the options; what is wrong with them, and with the other arguments, is the error.
func newSettings(c Client, dir string, codec any, opts []Option, replica bool) (settings, error) {
	s := settings{entries: DefaultMaxEntries, ttl: DefaultTTL, staleness: DefaultMaxStaleness}
	for _, o := range opts {
		if o != nil {
			o(&s)
		}
	}
	if h, ok := c.(interface{ Logger() *slog.Logger }); ok && s.logger == nil {
		s.logger = h.Logger()
	}
	s.logger = logging.OrDefault(s.logger)
	if h, ok := c.(interface{ CacheLookupHook() func(string, bool) }); ok && s.lookup == nil {
		s.lookup = h.CacheLookupHook() // of the client's Observer
	}
	_, bad := keyspace.Dir(dir)
	complaints := []error{bad}
	complain := func(format string, args ...any) {
		complaints = append(complaints, fmt.Errorf("%w: "+format, append([]any{errs.Invalid}, args...)...))
	}
	if c == nil || c.KV() == nil || c.Watcher() == nil {
		complain("no client, or one without a store or a watcher")
	}
	if codec == nil {
		complain("no codec")
	}
	if s.entries < 1 {
		complain("WithMaxEntries: %d entries", s.entries)
	}
	if s.ttl <= 0 {
		complain("WithTTL: %v", s.ttl)
	}
	if s.staleness < minStaleness {
		complain("WithMaxStaleness: %v is less than %v", s.staleness, minStaleness)
	}
	foreign, kind := s.replicaOnly, "a Cache"
	if replica {
		foreign, kind = s.cacheOnly, "a Replica"
	}
	for _, name := range foreign {
		complain("%s is not for %s", name, kind)
	}
	return s, errors.Join(complaints...)
}
