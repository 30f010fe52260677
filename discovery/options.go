package discovery

import (
	"errors"
	"log/slog"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/scope"
)

// Defaults of the options.
const (
	DefaultTTL         = 30 * time.Second
	DefaultGrace       = 30 * time.Second
	DefaultDrainDelay  = 2 * time.Second
	DefaultStopTimeout = 30 * time.Second
)

// Option is an option of [New].
type Option func(*options)

// options holds the options of a registry.
type options struct {
	ttl        time.Duration
	layout     layout
	grace      time.Duration
	failures   int
	ejection   time.Duration
	onBadEntry func(key string, rev int64, err error)
	logger     *slog.Logger
	scope      *scope.Scope // of the client; nil without one
}

// WithTTL sets how long an instance stays registered after its process has died. It is rounded up
// to whole seconds and must be at least 1 s; a server with default timing grants at least 2 s.
// Default: 30 s.
func WithTTL(d time.Duration) Option { return func(s *options) { s.ttl = d } }

// WithGRPCNaming stores instances as client/v3/naming stores endpoints: under the key
// <service>/<id>, with the value {"Op":0,"Addr":"host:port","Metadata":…}, where Metadata holds
// everything but the address. Endpoints written by other programs are read, too: metadata that is a
// JSON object becomes that of the [Instance], any other metadata its member "metadata". This layout
// has no common prefix, so give the client a namespace of its own. Readers outside this package do
// not know about draining; they see an instance leave when its key is deleted. Default: the layout
// described in the package documentation.
func WithGRPCNaming() Option { return func(s *options) { s.layout = naming() } }

// WithGrace sets how long a sudden loss of most instances is held back, as the package
// documentation describes; 0 disables it. Fewer than three instances are held back only if the
// watch was interrupted, and all are if the cluster's history was replaced. Default: 30 s.
func WithGrace(d time.Duration) Option { return func(s *options) { s.grace = d } }

// WithEjection sets after how many consecutive failures, as reported to [Pick.Done], a picker
// ejects an instance, and for how long. Each further ejection lasts longer by that time, up to ten
// times it. With 0 failures, instances are never ejected. Default: 5 failures, 10 s.
func WithEjection(failures int, d time.Duration) Option {
	return func(s *options) { s.failures, s.ejection = failures, d }
}

// WithBadEntry sets a function that is called with each entry that a view cannot decode. It runs on
// the watch's goroutine, so it must be fast and must not close the view. A panic of f is recovered
// and logged. Default: none; such entries also appear in the log and in Stats.
func WithBadEntry(f func(key string, rev int64, err error)) Option {
	return func(s *options) { s.onBadEntry = f }
}

// WithLogger sets the logger for registrations that fail or wait for a predecessor, bad entries,
// losses that are held back, and reopened watches. Default: the client's logger, or [slog.Default]
// from Warn up.
func WithLogger(l *slog.Logger) Option { return func(s *options) { s.logger = l } }

// newOptions applies and validates the options.
func newOptions(c Client, opts []Option) (options, error) {
	const failures, ejection = 5, 10 * time.Second
	s := options{ttl: DefaultTTL, layout: native(), grace: DefaultGrace, failures: failures, ejection: ejection}
	for _, o := range opts {
		if o != nil {
			o(&s)
		}
	}
	if c != nil && c.KV() != nil {
		s.scope = scope.Of(c.KV())
	}
	s.logger = s.scope.Logger(s.logger)
	var validationErr []error
	if s.ttl < time.Second {
		validationErr = append(validationErr, errs.Invalidf("TTL %v is shorter than 1s", s.ttl))
	}
	if s.grace < 0 {
		validationErr = append(validationErr, errs.Invalidf("negative grace period %v", s.grace))
	}
	if s.failures < 0 || s.failures > 0 && s.ejection <= 0 {
		validationErr = append(validationErr, errs.Invalidf("invalid ejection after %d failures for %v", s.failures, s.ejection))
	}
	return s, errors.Join(validationErr...)
}

// RegisterOption is an option of [Registry.Register].
type RegisterOption func(*registerOptions)

// registerOptions holds the options of Register.
type registerOptions struct {
	background  bool
	takeover    bool
	drainDelay  time.Duration
	stopTimeout time.Duration
}

// WithoutWaiting makes Register return at once and retry in the background until it succeeds or the
// registration is closed, whatever the error, including unavailability of etcd and [ErrTaken]. See
// [Registration.State]. Default: Register waits for the first success.
func WithoutWaiting() RegisterOption { return func(s *registerOptions) { s.background = true } }

// WithTakeover replaces another process's instance with the same ID, whatever its host and port. If
// that process is alive, its registration is Suspended until the new one is closed. A registration
// of the same client is not replaced; close it first. Default: ErrTaken, unless host and port are
// the same.
func WithTakeover() RegisterOption { return func(s *registerOptions) { s.takeover = true } }

// WithDrainDelay sets how long Drain waits after marking the instance, so that clients can notice
// and finish sending. Default: 2 s.
func WithDrainDelay(d time.Duration) RegisterOption {
	return func(s *registerOptions) { s.drainDelay = d }
}

// WithStopTimeout sets how long Close of a RegisterGRPC registration waits for running calls before
// it stops the server forcibly. Default: 30 s.
func WithStopTimeout(d time.Duration) RegisterOption {
	return func(s *registerOptions) { s.stopTimeout = d }
}

func newRegisterOptions(opts []RegisterOption) (registerOptions, error) {
	s := registerOptions{drainDelay: DefaultDrainDelay, stopTimeout: DefaultStopTimeout}
	for _, o := range opts {
		if o != nil {
			o(&s)
		}
	}
	if s.drainDelay < 0 || s.stopTimeout < 0 {
		return s, errs.Invalidf("drain delay %v or stop timeout %v is negative", s.drainDelay, s.stopTimeout)
	}
	return s, nil
}
