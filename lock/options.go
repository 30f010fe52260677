package lock

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// The dirs of names unless [WithDir] sets another one.
const (
	lockDir     = "locks/"
	electionDir = "elections/"
)

// Option configures a locker. See [New].
type Option func(*options)

// options holds the options of a locker.
type options struct {
	ttl    time.Duration
	ttlSet bool
	dir    string
	dirSet bool
	owner  string
	logger *slog.Logger
}

// WithTTL puts the keys on shared sessions with the given TTL. The TTL bounds how long the locks of
// a process stay held after it has died. It is rounded up to whole seconds and must be at least 1
// s. A server with default timing grants no less than 2 s. Default: the shared session of the lease
// manager, 15 s.
func WithTTL(d time.Duration) Option { return func(s *options) { s.ttl, s.ttlSet = d, true } }

// WithDir puts all names of locks and elections below dir. A mutex and an election of the same name
// then use the same queue and exclude each other, but their tokens differ in kind and must not be
// compared. With "", names are used as keys without a prefix, as in client/v3's concurrency
// package, etcdctl lock and etcdctl elect, and a name may have a leading slash. Data keys below a
// name then block its queue. Default: "locks/" for locks, "elections/" for elections.
func WithDir(dir string) Option { return func(s *options) { s.dir, s.dirSet = dir, true } }

// WithOwner sets the owner that others see in [LockedError]. Default: host name, program and
// process ID.
func WithOwner(id string) Option { return func(s *options) { s.owner = id } }

// WithLogger sets the logger for losses, keys that had to be swept and watches that had to be
// opened again. Default: the client's logger, or [slog.Default] from level Warn up.
func WithLogger(l *slog.Logger) Option { return func(s *options) { s.logger = l } }

// newOptions applies the options, and returns an error if one is invalid.
func newOptions(opts []Option) (s options, err error) {
	for _, o := range opts {
		if o != nil {
			o(&s)
		}
	}
	if s.ttlSet && s.ttl < time.Second {
		err = errs.Invalidf("TTL %v: must be at least 1s", s.ttl)
	}
	dir, dirErr := keyspace.Dir(s.dir)
	s.dir = dir
	if s.owner == "" {
		s.owner = defaultOwner()
	}
	return s, errors.Join(err, dirErr)
}

// defaultOwner returns host/program/pid.
func defaultOwner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "/" + filepath.Base(os.Args[0]) + "/" + strconv.Itoa(os.Getpid())
}
