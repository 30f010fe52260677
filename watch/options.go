package watch

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/internal/watchstream"
)

// An Option configures a Watcher or one watch. [WithNamespace] and [WithLogger] are options of
// [New]; all others are options of [Watcher.Watch], [Watcher.Subscribe] and [Watcher.Consume]. An
// option in the wrong place is invalid.
type Option func(*options)

// options collects what the options of New or of one watch set.
type options struct {
	config  *config  // nil for the options of one watch
	request *request // nil for the options of New
	errs    []error
}

// forWatcher returns an option of New.
func forWatcher(name string, set func(*config)) Option {
	return func(o *options) {
		if o.config == nil {
			o.addError("%s is an option of New", name)
			return
		}
		set(o.config)
	}
}

// forWatch returns an option of one watch.
func forWatch(name string, set func(*request)) Option {
	return func(o *options) {
		if o.request == nil {
			o.addError("%s is an option of a single watch", name)
			return
		}
		set(o.request)
	}
}

func (o *options) apply(opts []Option) {
	for _, opt := range opts {
		if opt != nil {
			opt(o)
		}
	}
}

// addError adds a validation error.
func (o *options) addError(format string, args ...any) {
	o.errs = append(o.errs, fmt.Errorf("%w: "+format, append([]any{errs.Invalid}, args...)...))
}

// config is the result of the options of a watcher.
type config struct {
	namespace string
	logger    *slog.Logger
	scope     *scope.Scope // of the client; nil without one
}

// WithNamespace makes selectors and event keys relative to dir. Keys outside of dir are not
// visible. Default: no namespace.
func WithNamespace(dir string) Option {
	return forWatcher("WithNamespace", func(c *config) { c.namespace = dir })
}

// WithLogger sets the logger. Lost streams are logged at Debug, gaps and resyncs at Info, the
// beginning and the end of an outage at Warn (for all watches together, at most once a minute), and
// panics of handlers at Error. Default: [slog.Default], from Warn up.
func WithLogger(l *slog.Logger) Option {
	return forWatcher("WithLogger", func(c *config) { c.logger = l })
}

var _ = scope.ProvideOption(func(sc *scope.Scope) Option {
	return forWatcher("the scope", func(c *config) { c.scope = sc })
})

// newConfig applies the options of New and returns the namespace. err joins the errors of all
// options.
func newConfig(opts []Option) (c config, ns string, err error) {
	o := options{config: &c}
	o.apply(opts)
	c.logger = c.scope.Logger(c.logger)
	ns, err = keyspace.Dir(c.namespace)
	return c, ns, errors.Join(append(o.errs, err)...)
}

// How far a watch may lag, in events and in bytes.
const (
	defaultBuffer = 4096
	maxLagBytes   = 16 << 20
)

// request is the result of the options of one watch.
type request struct {
	selector Selector
	span     span

	snapshot         bool
	partialPrefix    bool
	after            int64
	afterSet         bool
	prevValue        bool
	putsOnly         bool // only puts
	deletesOnly      bool // only deletes
	coalesce         bool
	progressInterval time.Duration
	progressSet      bool
	buffer           int
}

// WithSnapshot starts with the current state. The watch keeps an index of keys, so that it delivers
// a [Resync] batch if history is lost. Default: the watch starts from now, and ends with a
// [*CompactedError] if changes that it needs are compacted.
func WithSnapshot() Option {
	return forWatch("WithSnapshot", func(r *request) { r.snapshot = true })
}

// WithAfter starts with the first change after rev, a Batch.Revision of an earlier watch. If
// changes after rev were compacted, the watch ends with a [*CompactedError]. Together with
// [WithSnapshot] it delivers a Resync of the whole state instead, also if a list is cheaper than
// the changes since rev. If rev is ahead of the cluster, the watch ends with [ErrHistoryRewritten].
// Default: from now on.
func WithAfter(rev int64) Option {
	return forWatch("WithAfter", func(r *request) { r.after, r.afterSet = rev, true })
}

// WithPrevValue sets Event.PrevValue of live events. It costs etcd a read per event. Default: not
// set.
func WithPrevValue() Option {
	return forWatch("WithPrevValue", func(r *request) { r.prevValue = true })
}

// WithPutsOnly omits deletes. Default: both.
func WithPutsOnly() Option {
	return forWatch("WithPutsOnly", func(r *request) { r.putsOnly = true })
}

// WithDeletesOnly omits puts. Together with [WithSnapshot] it is invalid. Default: both.
func WithDeletesOnly() Option {
	return forWatch("WithDeletesOnly", func(r *request) { r.deletesOnly = true })
}

// WithProgress delivers a [Progress] batch at the start of a watch without a snapshot, and whenever
// nothing was delivered for the given time while the cluster's revision advanced. Each costs a
// message. Progress is requested at most once a second, so shorter times gain nothing. Default:
// none, and 30 s for Consume.
func WithProgress(every time.Duration) Option {
	return forWatch("WithProgress", func(r *request) { r.progressInterval, r.progressSet = every, true })
}

// WithBuffer sets how many events the watch may lag before it must read them from etcd again; see
// Slow consumers in the package documentation. Independently of WithBuffer, the limit is 16 MiB. A
// single batch always fits. Default: 4096.
func WithBuffer(events int) Option {
	return forWatch("WithBuffer", func(r *request) { r.buffer = events })
}

// WithCoalescing delivers what a slow consumer is missing as one batch, with the latest change of
// each key. What exceeds the limits of [WithBuffer] comes in more batches, or with [WithSnapshot]
// as a [Resync]. Default: every change in a batch of its revision.
func WithCoalescing() Option {
	return forWatch("WithCoalescing", func(r *request) { r.coalesce = true })
}

// WithPartialPrefix allows a prefix that does not end in "/". Default: such a prefix is invalid.
func WithPartialPrefix() Option {
	return forWatch("WithPartialPrefix", func(r *request) { r.partialPrefix = true })
}

// newRequest applies the options of one watch below ns and validates them. It sends nothing.
func newRequest(ns string, s Selector, opts []Option) (*request, error) {
	r := &request{selector: s, buffer: defaultBuffer}
	o := options{request: r}
	o.apply(opts)
	span, err := s.resolve(ns, r.partialPrefix)
	r.span = span
	if r.afterSet && r.after < 0 {
		o.addError("WithAfter: revision %d", r.after)
	}
	if r.progressSet && r.progressInterval <= 0 {
		o.addError("WithProgress: every %v", r.progressInterval)
	}
	if r.buffer < 1 {
		o.addError("WithBuffer: %d events", r.buffer)
	}
	if r.putsOnly && r.deletesOnly {
		o.addError("WithPutsOnly and WithDeletesOnly exclude each other")
	}
	if r.snapshot && r.deletesOnly {
		o.addError("WithSnapshot and WithDeletesOnly exclude each other")
	}
	return r, errors.Join(append(o.errs, err)...)
}

// key returns the key of the server-side watch that serves the request. State watches share one
// with all events, because their index needs them.
func (r *request) key() broadcasterKey {
	k := broadcasterKey{ns: r.span.ns, hasHidden: r.span.hasHidden}
	k.Spec = watchstream.Spec{From: r.span.From, To: r.span.To, PrevValue: r.prevValue}
	if !r.snapshot {
		k.PutsOnly, k.DeletesOnly = r.putsOnly, r.deletesOnly
	}
	return k
}

// filtersLocally reports whether the watch itself must omit events. wants reports which it
// delivers.
func (r *request) filtersLocally() bool { return r.snapshot && r.putsOnly }

func (r *request) wants(e *Event) bool { return !r.putsOnly || e.Type == Put }
