package lease

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// defaultTTL is the default TTL of sessions.
const defaultTTL = 15 * time.Second

// Option configures a [Manager].
type Option func(*options)

// options holds the options of a manager.
type options struct {
	namespace    string
	ttl          time.Duration
	logger       *slog.Logger
	retry        kv.RetryPolicy
	readTimeout  time.Duration
	writeTimeout time.Duration
	scope        *scope.Scope // of the client; nil without one
	stub         pb.LeaseClient
	watcher      *watch.Watcher
}

// WithNamespace puts the keys of the manager below dir. Leases have no namespace. Default: none.
func WithNamespace(dir string) Option { return func(s *options) { s.namespace = dir } }

// WithSessionTTL sets the TTL of shared sessions and of sessions opened without [WithTTL]. The
// limits are those of [WithTTL]. Default: 15 s.
func WithSessionTTL(d time.Duration) Option { return func(s *options) { s.ttl = d } }

// WithLogger sets the logger, which receives failing renewals, lost sessions and keys that are
// not restored yet. It never receives values. Default: [slog.Default], from level Warn up.
func WithLogger(l *slog.Logger) Option { return func(s *options) { s.logger = l } }

// WithRetry sets how often and how fast calls are retried. It does not apply to renewals, which are
// retried until the deadline, or to keys, which are restored until they are closed. Default: that
// of kv.RetryPolicy.
func WithRetry(p kv.RetryPolicy) Option { return func(s *options) { s.retry = p } }

// WithTimeouts sets the timeouts of calls whose context has no deadline. 0 keeps the default.
// Default: 5 s for reads and 10 s for writes.
func WithTimeouts(read, write time.Duration) Option {
	return func(s *options) { s.readTimeout, s.writeTimeout = read, write }
}

// WithStub sends all lease requests through stub instead of the client's connection. Use it for
// stubs with their own interceptors and for tests with testing/synctest. Default: the client's
// connection.
func WithStub(stub pb.LeaseClient) Option { return func(s *options) { s.stub = stub } }

// WithWatcher sets the watcher for keys. w must have the namespace of the manager. The manager does
// not close it. Default: a watcher that the manager makes for the first key.
func WithWatcher(w *watch.Watcher) Option { return func(s *options) { s.watcher = w } }

var _ = scope.ProvideOption(func(sc *scope.Scope) Option { return func(s *options) { s.scope = sc } })

// SessionOption configures a session: see [Manager.OpenSession].
type SessionOption func(*sessionOptions)

// sessionOptions holds the options of a session.
type sessionOptions struct {
	ttl      time.Duration
	hasTTL   bool
	lease    clientv3.LeaseID
	hasLease bool
}

// WithTTL sets how long the session's lease lives without being renewed. It is rounded up to whole
// seconds and must be at least 1 s. A server with default timing grants at least 2 s. Default:
// [WithSessionTTL].
func WithTTL(d time.Duration) SessionOption {
	return func(s *sessionOptions) { s.ttl, s.hasTTL = d, true }
}

// WithLease adopts an existing lease. OpenSession first renews it, at the cost of
// [Manager.KeepAliveOnce], and takes its TTL from the response. From then on the session owns the
// lease: Close revokes it. Default: a new lease.
func WithLease(id clientv3.LeaseID) SessionOption {
	return func(s *sessionOptions) { s.lease, s.hasLease = id, true }
}

// newSessionOptions applies opts and returns all validation errors joined.
func newSessionOptions(ttl time.Duration, opts []SessionOption) (sessionOptions, error) {
	s := sessionOptions{ttl: ttl}
	for _, opt := range opts {
		if opt != nil {
			opt(&s)
		}
	}
	var problems []error
	if s.hasTTL {
		problems = append(problems, wire.CheckTTL(s.ttl))
	}
	if s.hasLease {
		problems = append(problems, checkID(s.lease))
		if s.hasTTL {
			problems = append(problems, fmt.Errorf("%w: WithTTL and WithLease exclude each other", errs.Invalid))
		}
	}
	return s, errors.Join(problems...)
}

// KeyOption configures a [Key]: see [Manager.OpenKey].
type KeyOption func(*keyOptions)

// keyOptions holds the options of a key.
type keyOptions struct {
	takeover bool
	ttl      time.Duration
}

// WithTakeover replaces a key that belongs to another owner, when it is opened and whenever another
// client writes it later. If two processes open the same key with this option, neither wins: each
// overwrites the other, with growing delays. Default: the key is left to its owner.
func WithTakeover() KeyOption { return func(s *keyOptions) { s.takeover = true } }

// WithKeyTTL puts the key on a lease with this TTL, which is how long the key stays after the
// process dies. Keys with the same TTL share leases. The limits are those of [WithTTL]. Default:
// the TTL of the shared session.
func WithKeyTTL(d time.Duration) KeyOption { return func(s *keyOptions) { s.ttl = d } }

// newKeyOptions applies opts and validates the TTL.
func newKeyOptions(ttl time.Duration, opts []KeyOption) (keyOptions, error) {
	s := keyOptions{ttl: ttl}
	for _, opt := range opts {
		if opt != nil {
			opt(&s)
		}
	}
	return s, wire.CheckTTL(s.ttl)
}

// checkID rejects the zero ID.
func checkID(id clientv3.LeaseID) error {
	if id == clientv3.NoLease {
		return fmt.Errorf("%w: no lease given", errs.Invalid)
	}
	return nil
}
