package lease

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// defaultTTL is that of a session when nothing else is said.
const defaultTTL = 15 * time.Second

// Option is an option of a [Manager].
type Option func(*options)

// options is what the options of a manager add up to.
type options struct {
	namespace    string
	ttl          time.Duration
	logger       *slog.Logger
	retry        kv.RetryPolicy
	readTimeout  time.Duration
	writeTimeout time.Duration
	onRetry      func(op string, attempt int, err error)
	onLoss       func(cause error)
	stub         pb.LeaseClient
	watcher      *watch.Watcher
}

// WithNamespace puts the keys of the manager below dir. Leases have no namespace. Default: none.
func WithNamespace(dir string) Option { return func(s *options) { s.namespace = dir } }

// WithSessionTTL is the TTL of shared sessions, and of others that are opened without [WithTTL]. Default: 15 s.
func WithSessionTTL(d time.Duration) Option { return func(s *options) { s.ttl = d } }

// WithLogger sets the logger for failing renewals, losses and keys that had to be restored. Values do not appear. Default:
// [slog.Default], from the level Warn up.
func WithLogger(l *slog.Logger) Option { return func(s *options) { s.logger = l } }

// WithRetry says how often and at what pace calls are repeated. It does not concern renewals, which are repeated until
// the deadline, nor keys, which are restored for ever. Default: that of kv.RetryPolicy.
func WithRetry(p kv.RetryPolicy) Option { return func(s *options) { s.retry = p } }

// WithTimeouts bounds calls whose context has no deadline. Default: 5 s for reads and 10 s for writes; 0 keeps it.
func WithTimeouts(read, write time.Duration) Option {
	return func(s *options) { s.readTimeout, s.writeTimeout = read, write }
}

// WithRetryHook is told of each attempt of a call that is about to be repeated: the operation, which attempt failed,
// from 1, and how. It is called in the caller's goroutine and must not block. Default: none.
func WithRetryHook(f func(op string, attempt int, err error)) Option {
	return func(s *options) { s.onRetry = f }
}

// WithLossHook has f called with the cause of each loss of a session; a session that is closed is not lost. Each call has a
// goroutine of its own, so that f may block and may use the manager; a panic in it is logged. Close waits for the calls under
// way, for 4 s at most. Default: none.
func WithLossHook(f func(cause error)) Option { return func(s *options) { s.onLoss = f } }

// WithStub sends everything that concerns leases through stub instead of the client's connection. It is for stubs with
// interceptors of their own and for tests under testing/synctest. Default: the client's connection.
func WithStub(stub pb.LeaseClient) Option { return func(s *options) { s.stub = stub } }

// WithWatcher watches keys through w, which has the namespace of the manager and is not closed with it. Default: a
// watcher of the manager's own, made with the first key.
func WithWatcher(w *watch.Watcher) Option { return func(s *options) { s.watcher = w } }

// SessionOption is an option of [Manager.OpenSession].
type SessionOption func(*sessionOptions)

// sessionOptions is what the options of a session add up to.
type sessionOptions struct {
	ttl      time.Duration
	hasTTL   bool
	lease    clientv3.LeaseID
	hasLease bool
}

// WithTTL is how long the session's lease lives without being renewed. It is rounded up to whole seconds, must be 1 s at
// least, and a server with default timing makes no less than 2 s of it. Default: [WithSessionTTL].
func WithTTL(d time.Duration) SessionOption {
	return func(s *sessionOptions) { s.ttl, s.hasTTL = d, true }
}

// WithLease adopts a lease that exists. It is trusted once it has been renewed, which OpenSession does first; its TTL
// is what etcd says. The session owns the lease from then on: Close revokes it. Default: a new lease.
func WithLease(id clientv3.LeaseID) SessionOption {
	return func(s *sessionOptions) { s.lease, s.hasLease = id, true }
}

// newSessionOptions applies opts and complains about all that is wrong.
func newSessionOptions(ttl time.Duration, opts []SessionOption) (sessionOptions, error) {
	s := sessionOptions{ttl: ttl}
	for _, opt := range opts {
		if opt != nil {
			opt(&s)
		}
	}
	var problems []error
	if s.hasTTL {
		problems = append(problems, checkTTL(s.ttl))
	}
	if s.hasLease {
		problems = append(problems, checkID(s.lease))
		if s.hasTTL {
			problems = append(problems, fmt.Errorf("%w: WithTTL and WithLease exclude each other", errs.Invalid))
		}
	}
	return s, errors.Join(problems...)
}

// KeyOption is an option of [Manager.OpenKey].
type KeyOption func(*keyOptions)

// keyOptions is what the options of a key add up to.
type keyOptions struct {
	takeover bool
	ttl      time.Duration
}

// WithTakeover replaces whatever has the key, now and whenever somebody else has written it. Of two that do this to each
// other neither wins; each waits longer from time to time. Default: the key is left to whoever else has it.
func WithTakeover() KeyOption { return func(s *keyOptions) { s.takeover = true } }

// WithKeyTTL puts the key on a lease with this TTL, which keys of the same TTL share: how long the key stays when the
// process dies. The limits are those of [WithTTL]. Default: the TTL of the shared session.
func WithKeyTTL(d time.Duration) KeyOption { return func(s *keyOptions) { s.ttl = d } }

// newKeyOptions applies opts and complains about all that is wrong.
func newKeyOptions(ttl time.Duration, opts []KeyOption) (keyOptions, error) {
	s := keyOptions{ttl: ttl}
	for _, opt := range opts {
		if opt != nil {
			opt(&s)
		}
	}
	return s, checkTTL(s.ttl)
}

// checkTTL refuses what etcd would silently turn into its minimum.
func checkTTL(d time.Duration) error {
	switch {
	case d <= 0:
		return fmt.Errorf("%w: TTL %v: it must be positive (a server with default timing grants 2s at least)", errs.Invalid, d)
	case d < time.Second:
		return fmt.Errorf("%w: TTL %v: etcd counts in seconds (a server with default timing grants 2s at least)", errs.Invalid, d)
	case d.Seconds() > clientv3.MaxLeaseTTL:
		return fmt.Errorf("%w: TTL %v: the limit is %d seconds", errs.TooLarge, d, int64(clientv3.MaxLeaseTTL))
	}
	return nil
}

// checkID refuses what is no lease.
func checkID(id clientv3.LeaseID) error {
	if id == clientv3.NoLease {
		return fmt.Errorf("%w: no lease given", errs.Invalid)
	}
	return nil
}
