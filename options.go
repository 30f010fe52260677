package etcdkit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/logging"
	"github.com/etcdkit/etcdkit/kv"
)

// Option changes what [Open], [OpenLazy] and [Wrap] make.
type Option func(*options)

// credentialsFunc is where logins take user and password from.
type credentialsFunc func(ctx context.Context) (user, password string, err error)

// options is what the options add up to.
type options struct {
	logger      *slog.Logger
	tls         *tls.Config
	dial        []grpc.DialOption
	namespace   *string
	credentials credentialsFunc
	observer    Observer
	limits      kv.Limits
	lookup      lookupSRV // nil: the system's resolver

	unsupportedServers bool
	endpointSync       time.Duration // 0: none

	notForWrap []string // options given that a client made elsewhere cannot follow
	bad        complaints
}

// complaints collects what is wrong with a configuration, so that all of it is told at once.
type complaints []error

func (c *complaints) add(format string, args ...any) {
	*c = append(*c, fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...)))
}

// err is all complaints about op, or nil.
func (c *complaints) err(op string) error {
	if len(*c) == 0 {
		return nil
	}
	return refuse(op, errors.Join(*c...))
}

// newOptions applies opts in order; of two that say different things the last wins.
func newOptions(opts []Option) options {
	o := options{logger: logging.OrDefault(nil)}
	for i, opt := range opts {
		if opt == nil {
			o.bad.add("option %d is nil", i+1)
			continue
		}
		opt(&o)
	}
	return o
}

// WithLogger sets the logger of the client, of client/v3 below it, and of the parts that are opened with the client and
// given no logger of their own. Neither values nor passwords are logged. Default: [slog.Default], from the level Warn up;
// a logger with [slog.DiscardHandler] turns logging off.
func WithLogger(l *slog.Logger) Option {
	return func(o *options) {
		if l == nil {
			o.bad.add("WithLogger: nil")
			return
		}
		o.logger = l
	}
}

// WithTLS sets the TLS settings instead of Config.TLS. c is cloned. Default: none.
func WithTLS(c *tls.Config) Option {
	return func(o *options) {
		o.notForWrap = append(o.notForWrap, "WithTLS")
		if c == nil {
			o.bad.add("WithTLS: nil")
			return
		}
		o.tls = c.Clone()
	}
}

// WithDialOptions adds gRPC options to every connection, after the client's own. Default: none.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(o *options) {
		o.notForWrap = append(o.notForWrap, "WithDialOptions")
		o.dial = append(o.dial, opts...)
	}
}

// WithNamespace puts the parts of the client below dir. It overrides Config.Namespace. Default: none.
func WithNamespace(dir string) Option { return func(o *options) { o.namespace = &dir } }

// WithCredentials asks f for user and password on every login, for secrets that rotate. f is called for the call that
// needs the login, in a goroutine of its own and once at a time; its error, or a panic, fails that call. f must return
// when ctx ends: calls do not wait for it beyond their time, and Close not beyond a second, but until it returns
// there is no other login. Default: what Config says.
func WithCredentials(f func(ctx context.Context) (user, password string, err error)) Option {
	return func(o *options) {
		o.notForWrap = append(o.notForWrap, "WithCredentials")
		if f == nil {
			o.bad.add("WithCredentials: nil")
			return
		}
		o.credentials = f
	}
}

// WithLimits tells of limits of the cluster that differ from etcd's defaults, such as a larger --max-request-bytes: requests
// are held against them before they are sent. A field that is 0 keeps its default. Default: etcd's.
func WithLimits(l kv.Limits) Option {
	return func(o *options) {
		if err := l.Validate(); err != nil {
			o.bad.add("WithLimits: a negative limit")
			return
		}
		o.limits = l
	}
}

// WithUnsupportedServers has Open connect to a cluster with members that run a version of etcd that is not supported, and
// log a warning. Supported are 3.5.13 and later versions of 3.5, 3.4.31 and later versions of 3.4, and all versions from
// 3.6. Older ones report progress ahead of events, so that watches can lose events and linearizable reads of a cache can
// be stale. Default: Open returns [ErrUnsupportedServer].
func WithUnsupportedServers() Option { return func(o *options) { o.unsupportedServers = true } }

// WithEndpointSync replaces the endpoints by the client URLs of the voting members, as the cluster lists them, every now and
// then: after the interval and up to a tenth more. Members must advertise URLs that the client can reach
// (--advertise-client-urls). URLs that do not suit the TLS settings of the client are skipped, and if none of the others
// answers the endpoints stay as they are; that is logged. It costs one RPC each time. Default: never.
func WithEndpointSync(every time.Duration) Option {
	return func(o *options) {
		o.notForWrap = append(o.notForWrap, "WithEndpointSync")
		if every <= 0 {
			o.bad.add("WithEndpointSync: %v is not positive", every)
			return
		}
		o.endpointSync = every
	}
}

// WithObserver sets hooks for metrics and tracing. Default: none.
func WithObserver(obs Observer) Option { return func(o *options) { o.observer = obs } }

// Observer is a set of optional hooks for metrics and tracing; one that is nil costs nothing. They are called in the
// goroutine where the thing happens, so they must be quick and safe for concurrent use.
type Observer struct {
	// Retry is told of each attempt that is about to be repeated: the operation, which attempt failed, from 1, and how.
	Retry func(op string, attempt int, err error)
	// LeaseLost is told why a session has ended other than by being closed. Each call has a goroutine of its own.
	LeaseLost func(cause error)
	// LockWait is told how long a lock of the given name was waited for.
	LockWait func(name string, d time.Duration)
	// WatchResync is told of a watch whose history was lost and which went on from the current state, and how many
	// changes it reported for the difference.
	WatchResync func(selector string, folded int)
	// CacheLookup is told of each read of a cache that was opened with the client, over dir.
	CacheLookup func(dir string, hit bool)
}

// Logger returns the logger of [WithLogger] or its default. Packages cache, config and discovery use it unless they are
// given a logger of their own.
func (c *Client) Logger() *slog.Logger { return c.set.logger }

// CacheLookupHook is Observer.CacheLookup, for package cache, which is given the client; nil where there is none.
func (c *Client) CacheLookupHook() func(dir string, hit bool) { return c.set.observer.CacheLookup }
