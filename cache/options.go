package cache

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/scope"
)

// Defaults of the options.
const (
	DefaultMaxEntries   = 1000
	DefaultTTL          = 5 * time.Minute
	DefaultMaxStaleness = 10 * time.Second
)

// minStaleness limits the refreshes of a cache to one per second.
const minStaleness = 2 * time.Second

// Option configures [Open] or [OpenReplica].
type Option func(*options)

// options holds the result of all options.
type options struct {
	maxEntries    int
	ttl           time.Duration
	maxStaleness  time.Duration
	logger        *slog.Logger
	scope         *scope.Scope // of the client; nil without one
	badEntryHook  func(key string, rev int64, err error)
	readOnlyCheck bool

	cacheOnly   []string // options used that are not valid for a Replica
	replicaOnly []string // options used that are not valid for a Cache
}

// WithMaxEntries limits how many keys a [Cache] holds, including absent ones. The least recently
// used ones are evicted. It is not valid for a [Replica]. Default 1,000.
func WithMaxEntries(n int) Option {
	return func(s *options) { s.maxEntries, s.cacheOnly = n, append(s.cacheOnly, "WithMaxEntries") }
}

// WithTTL limits how long a [Cache] keeps an entry, whether it changes or not. It is not valid for
// a [Replica]. Default 5 minutes.
func WithTTL(d time.Duration) Option {
	return func(s *options) { s.ttl, s.cacheOnly = d, append(s.cacheOnly, "WithTTL") }
}

// WithMaxStaleness bounds how old an answer from memory may be while the watch is down. Beyond it a
// [Cache] reads from etcd, and Get of a [Replica] returns [ErrStale]. A dead stream is detected
// within 4 s after half of the bound, so with 8 s or more the loss of a single member has no
// effect. The minimum is 2 s, because reads refresh the cache at half of the bound. math.MaxInt64
// means no bound. Default 10 s.
func WithMaxStaleness(d time.Duration) Option { return func(s *options) { s.maxStaleness = d } }

// WithLogger sets the logger. At level Warn, it receives values that do not decode, watches that
// end and are reopened, and staleness that exceeds the bound and falls below it again; each of the
// last two at most once a minute. At level Error, it receives panics of callbacks. Values are never
// logged. Default: the client's logger, or [slog.Default] from level Warn up.
func WithLogger(l *slog.Logger) Option { return func(s *options) { s.logger = l } }

// WithBadEntry sets a function that is called for each value of a [Replica] that does not decode.
// It runs on the watch's goroutine and must return quickly. A panic of f is recovered and logged.
// It is not valid for a [Cache]. Default: none; such values are logged and counted in [Stats].
func WithBadEntry(f func(key string, rev int64, err error)) Option {
	return func(s *options) { s.badEntryHook, s.replicaOnly = f, append(s.replicaOnly, "WithBadEntry") }
}

// WithReadOnlyCheck detects code that modifies the values it was given. It is for tests: each value
// is encoded when it is received and again whenever it is returned. If the results differ, the read
// panics with the key. Default: off.
func WithReadOnlyCheck() Option { return func(s *options) { s.readOnlyCheck = true } }

// newOptions applies the options. The error contains everything that is wrong with them and the
// other arguments.
func newOptions(c Client, dir string, codec any, opts []Option, replica bool) (options, error) {
	s := options{maxEntries: DefaultMaxEntries, ttl: DefaultTTL, maxStaleness: DefaultMaxStaleness}
	for _, o := range opts {
		if o != nil {
			o(&s)
		}
	}
	_, dirErr := keyspace.Dir(dir)
	validationErrs := []error{dirErr}
	addErr := func(format string, args ...any) {
		validationErrs = append(validationErrs, fmt.Errorf("%w: "+format, append([]any{errs.Invalid}, args...)...))
	}
	if c == nil || c.KV() == nil || c.Watcher() == nil {
		addErr("no client, or one without a store or a watcher")
	} else {
		s.scope = scope.Of(c.KV())
	}
	s.logger = s.scope.Logger(s.logger)
	if codec == nil {
		addErr("no codec")
	}
	if s.maxEntries < 1 {
		addErr("WithMaxEntries: %d entries", s.maxEntries)
	}
	if s.ttl <= 0 {
		addErr("WithTTL: %v", s.ttl)
	}
	if s.maxStaleness < minStaleness {
		addErr("WithMaxStaleness: %v is less than %v", s.maxStaleness, minStaleness)
	}
	misplaced, kind := s.replicaOnly, "a Cache"
	if replica {
		misplaced, kind = s.cacheOnly, "a Replica"
	}
	for _, name := range misplaced {
		addErr("%s is not for %s", name, kind)
	}
	return s, errors.Join(validationErrs...)
}
