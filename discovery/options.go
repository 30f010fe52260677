package discovery

import (
	"errors"
	"log/slog"
	"time"

	"github.com/etcdkit/etcdkit/internal/logging"
)

// The defaults of the options.
const (
	DefaultTTL         = 30 * time.Second
	DefaultGrace       = 30 * time.Second
	DefaultDrainDelay  = 2 * time.Second
	DefaultStopTimeout = 30 * time.Second
)

// Option is an option of [New].
type Option func(*options)

// options is what the options of a registry add up to.
type options struct {
	ttl        time.Duration
	layout     layout
	grace      time.Duration
	failures   int
	ejection   time.Duration
	onBadEntry func(key string, rev int64, err error)
	logger     *slog.Logger
}

// WithTTL is how long an instance stays registered when its process dies. It is rounded up to whole seconds, must be 1 s at
// least, and a server with default timing makes no less than 2 s of it. Default: 30 s.
func WithTTL(d time.Duration) Option { return func(s *options) { s.ttl = d } }

// WithGRPCNaming has instances where and how client/v3/naming has its endpoints: an instance is the key <service>/<id>, its
// value is {"Op":0,"Addr":"host:port","Metadata":…}, and all that Addr does not say is in Metadata. Such endpoints are
// read, too, whoever has written them: Metadata that is a JSON object becomes that of the [Instance], other Metadata its
// member "metadata". There is no dir of services then: give the client a namespace of its own. Readers that are not of this
// package do not know of draining: they learn that an instance leaves when its key goes. Default: the layout that the package
// comment describes.
func WithGRPCNaming() Option { return func(s *options) { s.layout = naming() } }

// WithGrace is how long a sudden loss of most instances is held back, as the package comment describes; 0 holds nothing
// back. Default: 30 s.
func WithGrace(d time.Duration) Option { return func(s *options) { s.grace = d } }

// WithEjection is after how many failures in a row, as reported to [Pick.Done], a picker leaves an instance alone, and for
// how long; that long again and more for each further time, up to ten times. No failures: never. Default: 5 failures,
// 10 s.
func WithEjection(failures int, d time.Duration) Option {
	return func(s *options) { s.failures, s.ejection = failures, d }
}

// WithBadEntry has f told of each value that a view is given and cannot use. It runs in the watch's goroutine: it must be
// quick, and must not close the view. Default: none, besides the log and the Stats.
func WithBadEntry(f func(key string, rev int64, err error)) Option {
	return func(s *options) { s.onBadEntry = f }
}

// WithLogger sets the logger for registrations that do not succeed yet, or wait for a predecessor, entries that cannot be
// used, losses that are held back, and watches that had to be begun anew. Default: the client's logger, else
// [slog.Default] from the level Warn up.
func WithLogger(l *slog.Logger) Option { return func(s *options) { s.logger = l } }

// newOptions applies the options; what is wrong with them is the error.
func newOptions(c Client, opts []Option) (options, error) {
	const failures, ejection = 5, 10 * time.Second
	s := options{ttl: DefaultTTL, layout: native(), grace: DefaultGrace, failures: failures, ejection: ejection}
	for _, o := range opts {
		if o != nil {
			o(&s)
		}
	}
	if h, ok := c.(interface{ Logger() *slog.Logger }); ok && s.logger == nil {
		s.logger = h.Logger()
	}
	s.logger = logging.OrDefault(s.logger)
	var validationErr []error
	if s.ttl < time.Second {
		validationErr = append(validationErr, invalid("TTL %v: it must be 1s at least", s.ttl))
	}
	if s.grace < 0 {
		validationErr = append(validationErr, invalid("grace period %v: it must not be negative", s.grace))
	}
	if s.failures < 0 || s.failures > 0 && s.ejection <= 0 {
		validationErr = append(validationErr, invalid("ejection after %d failures for %v: neither may be negative", s.failures, s.ejection))
	}
	return s, errors.Join(validationErr...)
}

// RegisterOption is an option of [Registry.Register].
type RegisterOption func(*registerOptions)

// registerOptions is what they add up to.
type registerOptions struct {
	background  bool
	takeover    bool
	drainDelay  time.Duration
	stopTimeout time.Duration
}

// WithoutWaiting makes Register return at once, and go on trying in the background until it succeeds or the registration
// is closed, whatever the reason: also while etcd is away, and while somebody else has the ID. State tells. Default:
// Register waits for the first success.
func WithoutWaiting() RegisterOption { return func(s *registerOptions) { s.background = true } }

// WithTakeover replaces the instance of another process that has the ID, whatever its host and port. If that process is
// alive, the State of its registration is Suspended until the new one is closed. A registration of the same client is not
// replaced, which is ErrTaken still: close it. Default: ErrTaken, unless host and port are the same.
func WithTakeover() RegisterOption { return func(s *registerOptions) { s.takeover = true } }

// WithDrainDelay is how long Drain waits between the mark and its return: for clients to see the mark, and to have sent
// what they were about to send. Default: 2 s.
func WithDrainDelay(d time.Duration) RegisterOption {
	return func(s *registerOptions) { s.drainDelay = d }
}

// WithStopTimeout is how long the Close of a RegisterGRPC registration lets calls go on that had begun; then the server is
// stopped with them. Default: 30 s.
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
		return s, invalid("drain delay %v, stop wait %v: neither may be negative", s.drainDelay, s.stopTimeout)
	}
	return s, nil
}
