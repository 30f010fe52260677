package lock

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/logging"
)

// Where names live unless [WithDir] says otherwise.
const (
	lockDir     = "locks/"
	electionDir = "elections/"
)

// Option is an option of [New].
type Option func(*settings)

// settings is what the options of a locker add up to.
type settings struct {
	ttl    time.Duration
	ttlSet bool
	dir    string
	dirSet bool
	owner  string
	logger *slog.Logger
	onWait func(name string, d time.Duration)
}

// WithTTL puts the keys on shared sessions of the given TTL: how long after the death of a process, at the latest,
// others get what it held. It is rounded up to whole seconds, must be 1 s at least, and a server with default timing
// makes no less than 2 s of it. Default: the shared session of the lease manager, 15 s.
func WithTTL(d time.Duration) Option { return func(s *settings) { s.ttl, s.ttlSet = d, true } }

// WithDir puts all names below dir, those of locks and of elections: a mutex and an election of one name then stand in one
// queue, and exclude each other, but their tokens are of different kinds and do not compare. "" lays names verbatim, as
// client/v3's concurrency package, etcdctl lock and etcdctl elect do, and allows a leading slash in a name; mind that data keys
// below a name then block it.
// Default: "locks/" for locks, "elections/" for elections.
func WithDir(dir string) Option { return func(s *settings) { s.dir, s.dirSet = dir, true } }

// WithOwner is what others see in [LockedError]. Default: host name, program and process ID.
func WithOwner(id string) Option { return func(s *settings) { s.owner = id } }

// WithLogger sets the logger for losses, keys that had to be swept and watches that had to be opened again. Default:
// [slog.Default], from the level Warn up.
func WithLogger(l *slog.Logger) Option { return func(s *settings) { s.logger = l } }

// WithWaitHook calls f with the time that each successful acquisition took. f is called one
// acquisition after the other, on a goroutine of its own; a panic is recovered and logged. Close
// waits for f, for 5 s at the most. Default: none.
func WithWaitHook(f func(name string, d time.Duration)) Option {
	return func(s *settings) { s.onWait = f }
}

// newSettings applies the options; what is wrong with them is the error.
func newSettings(opts []Option) (s settings, err error) {
	for _, o := range opts {
		if o != nil {
			o(&s)
		}
	}
	var bad []error
	if s.ttlSet && s.ttl < time.Second {
		bad = append(bad, fmt.Errorf("%w: TTL %v: it must be 1s at least", errs.Invalid, s.ttl))
	}
	dir, err := keyspace.Dir(s.dir)
	s.dir = dir
	bad = append(bad, err)
	if s.owner == "" {
		s.owner = defaultOwner()
	}
	s.logger = logging.OrDefault(s.logger)
	return s, errors.Join(bad...)
}

// defaultOwner is host/program/pid.
func defaultOwner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "/" + filepath.Base(os.Args[0]) + "/" + strconv.Itoa(os.Getpid())
}
