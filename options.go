package etcdkit

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/auth"
	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/logging"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
)

// Option configures [Open], [OpenLazy] or [Wrap].
type Option func(*options)

// options holds the result of all options.
type options struct {
	logger      *slog.Logger
	tls         *tls.Config
	dial        []grpc.DialOption
	namespace   *string
	credentials auth.CredentialsFunc
	observer    Observer
	scope       *scope.Scope // shared with the parts
	limits      kv.Limits
	lookup      endpoint.LookupFunc // nil: the system's resolver

	unsupportedServers bool
	endpointSync       time.Duration // 0: disabled

	notForWrap []string // options used that do not apply to an existing client
	errs       validationErrors
}

// validationErrors collects the errors of a configuration, so that all are reported at once.
type validationErrors []error

func (e *validationErrors) add(format string, args ...any) {
	*e = append(*e, errs.Invalidf(format, args...))
}

// join returns all errors as the error of op, or nil.
func (e *validationErrors) join(op string) error {
	if len(*e) == 0 {
		return nil
	}
	return opError(op, errors.Join(*e...))
}

// newOptions applies opts in order. If two conflict, the last wins.
func newOptions(opts []Option) options {
	o := options{logger: logging.OrDefault(nil)}
	for i, opt := range opts {
		if opt == nil {
			o.errs.add("option %d is nil", i+1)
			continue
		}
		opt(&o)
	}
	o.scope = scope.New(o.logger, o.observer.hooks())
	return o
}

// WithLogger sets the logger of the client, of the client/v3 client, and of packages that are used
// with the client and have no logger of their own. Values and passwords are never logged. Default:
// [slog.Default], from level Warn up. A logger with [slog.DiscardHandler] disables logging.
func WithLogger(l *slog.Logger) Option {
	return func(o *options) {
		if l == nil {
			o.errs.add("WithLogger: nil")
			return
		}
		o.logger = l
	}
}

// WithTLS sets the TLS settings. It cannot be combined with Config.TLS. c is cloned. Connections
// use TLS 1.2 or later. Default: none.
func WithTLS(c *tls.Config) Option {
	return func(o *options) {
		o.notForWrap = append(o.notForWrap, "WithTLS")
		if c == nil {
			o.errs.add("WithTLS: nil")
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

// WithNamespace sets the dir that contains the keys of the client. It overrides Config.Namespace.
// Default: none.
func WithNamespace(dir string) Option { return func(o *options) { o.namespace = &dir } }

// WithCredentials sets a function that returns the user and password for each login, for secrets
// that rotate. f runs in its own goroutine, for the call that needs the login, and never
// concurrently with itself. If f returns an error or panics, that call fails. f must return when
// ctx ends. Calls do not wait for it after their own context has ended, and Close waits at most a
// second, but there is no other login until f has returned. It cannot be combined with credentials
// in Config. Default: the credentials of Config.
func WithCredentials(f func(ctx context.Context) (user, password string, err error)) Option {
	return func(o *options) {
		o.notForWrap = append(o.notForWrap, "WithCredentials")
		if f == nil {
			o.errs.add("WithCredentials: nil")
			return
		}
		o.credentials = f
	}
}

// WithLimits sets limits of the cluster that differ from etcd's defaults, such as a larger
// --max-request-bytes. Requests are checked against them before they are sent. A field that is 0
// keeps its default. Default: etcd's defaults.
func WithLimits(l kv.Limits) Option {
	return func(o *options) {
		if err := l.Validate(); err != nil {
			o.errs.add("WithLimits: a negative limit")
			return
		}
		o.limits = l
	}
}

// WithUnsupportedServers lets Open connect to a cluster with members whose version of etcd is not
// supported. It logs a warning for each. Supported versions are 3.4 from 3.4.31, 3.5 from 3.5.13,
// and all from 3.6. Older versions may report progress ahead of events, so that watches can lose
// events and linearizable reads of a cache can be stale. Default: Open returns
// [ErrUnsupportedServer].
func WithUnsupportedServers() Option { return func(o *options) { o.unsupportedServers = true } }

// WithEndpointSync periodically replaces the endpoints by the client URLs of the voting members, as
// listed by the cluster. The period is the given interval plus up to a tenth of it. Members must
// advertise URLs that the client can reach (--advertise-client-urls). URLs that do not suit the
// client's TLS settings are skipped. If none of the others answers, the endpoints are kept and a
// warning is logged. The cost is one RPC each time, and a probe of each URL if the list has
// changed. Default: never.
func WithEndpointSync(every time.Duration) Option {
	return func(o *options) {
		o.notForWrap = append(o.notForWrap, "WithEndpointSync")
		if every <= 0 {
			o.errs.add("WithEndpointSync: %v is not positive", every)
			return
		}
		o.endpointSync = every
	}
}
