package watch

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/logging"
)

// A WatcherOption is an option of [New].
type WatcherOption func(*config)

// An Option is an option of one watch: of [Watcher.Watch], [Watcher.Subscribe] or [Watcher.Consume].
type Option func(*request)

// config is what the options of a watcher add up to.
type config struct {
	namespace string
	logger    *slog.Logger
	resync    func(selector string, folded int)
}

// WithNamespace puts everything below dir: selectors and event keys are relative to it, and nothing outside is seen.
// Default: no namespace.
func WithNamespace(dir string) WatcherOption { return func(c *config) { c.namespace = dir } }

// WithLogger sets the logger for lost streams (Debug), gaps and resyncs (Info), the beginning and the end of an outage (Warn:
// for all watches at once, at most once a minute), and handlers that panic (Error). Default: [slog.Default], from the level
// Warn up.
func WithLogger(l *slog.Logger) WatcherOption { return func(c *config) { c.logger = l } }

// WithResyncHook has f called after each resync of a state watch, with the selector and the number of changes that the
// difference came to. f runs in the watch's goroutine, for several watches at once: it must be quick. Default: none.
func WithResyncHook(f func(selector string, folded int)) WatcherOption {
	return func(c *config) { c.resync = f }
}

// newConfig applies the options; what is wrong with them is the error.
func newConfig(opts []WatcherOption) (c config, ns string, err error) {
	for _, o := range opts {
		if o != nil {
			o(&c)
		}
	}
	c.logger = logging.OrDefault(c.logger)
	ns, err = keyspace.Dir(c.namespace)
	return c, ns, err
}

// The bounds of a consumer that lags.
const (
	defaultBuffer = 4096
	bufferBytes   = 16 << 20
)

// request is what the options of one watch add up to.
type request struct {
	sel  Selector
	span span

	snapshot bool
	partial  bool
	after    int64
	afterSet bool
	prev     bool
	puts     bool // only
	deletes  bool // only
	coalesce bool
	every    time.Duration
	everySet bool
	buffer   int
}

// WithSnapshot starts with the current state, and makes the watch keep an index of keys, so that lost history becomes a
// [Resync] batch instead of an error. Default: changes from now on, and a [*CompactedError].
func WithSnapshot() Option { return func(r *request) { r.snapshot = true } }

// WithAfter starts with the first change after rev, a Batch.Revision of an earlier watch. If that is compacted, the watch
// ends with [*CompactedError]; together with [WithSnapshot] it goes on with a Resync of the whole state, and does so too where
// a list is cheaper than what has happened since. If rev lies
// ahead of the cluster, it ends with [ErrHistoryRewritten]. Default: from now on.
func WithAfter(rev int64) Option {
	return func(r *request) { r.after, r.afterSet = rev, true }
}

// WithPrevValue fills Event.PrevValue of live events. It costs etcd a read per event. Default: not filled.
func WithPrevValue() Option { return func(r *request) { r.prev = true } }

// WithPutsOnly leaves deletes out. Default: both.
func WithPutsOnly() Option { return func(r *request) { r.puts = true } }

// WithDeletesOnly leaves puts out; it does not go with [WithSnapshot]. Default: both.
func WithDeletesOnly() Option { return func(r *request) { r.deletes = true } }

// WithProgress delivers a [Progress] batch at the start of a watch that has no snapshot, and then whenever nothing was
// delivered for the given time while the cluster's revision moved on. It costs a message each time. Progress is requested
// once a second at the most, so shorter times gain nothing. Default: none; Consume has 30 s.
func WithProgress(every time.Duration) Option {
	return func(r *request) { r.every, r.everySet = every, true }
}

// WithBuffer sets how many events the watch may lag before it loses its place, as the package comment describes. Default
// 4096. A lag of 16 MiB is too much in any case, a single batch never is.
func WithBuffer(events int) Option { return func(r *request) { r.buffer = events } }

// WithCoalescing gives a slow consumer everything that has piled up as one batch, with the latest change of each key.
// Default: every change in its own batch.
func WithCoalescing() Option { return func(r *request) { r.coalesce = true } }

// WithPartialPrefix allows a prefix that does not end in "/". Default: refused.
func WithPartialPrefix() Option { return func(r *request) { r.partial = true } }

// newRequest applies the options of one watch below ns and checks them. Nothing is sent before.
func newRequest(ns string, s Selector, opts []Option) (*request, error) {
	r := &request{sel: s, buffer: defaultBuffer}
	for _, o := range opts {
		if o != nil {
			o(r)
		}
	}
	var complaints []error
	complain := func(format string, args ...any) {
		complaints = append(complaints, fmt.Errorf("%w: "+format, append([]any{errs.Invalid}, args...)...))
	}
	span, err := s.resolve(ns, r.partial)
	if err != nil {
		complaints = append(complaints, err)
	}
	r.span = span
	if r.afterSet && r.after < 0 {
		complain("WithAfter: revision %d", r.after)
	}
	if r.everySet && r.every <= 0 {
		complain("WithProgress: every %v", r.every)
	}
	if r.buffer < 1 {
		complain("WithBuffer: %d events", r.buffer)
	}
	if r.puts && r.deletes {
		complain("WithPutsOnly and WithDeletesOnly leave nothing")
	}
	if r.snapshot && r.deletes {
		complain("WithSnapshot needs puts: it does not go with WithDeletesOnly")
	}
	return r, errors.Join(complaints...)
}

// key says which server-side watch serves a request. State watches filter by themselves: the index needs all events.
func (r *request) key() hubKey {
	k := hubKey{ns: r.span.ns, from: r.span.From, to: r.span.To, prev: r.prev, hide: r.span.hide}
	if !r.snapshot {
		k.puts, k.deletes = r.puts, r.deletes
	}
	return k
}

// filters reports whether the watch has to leave out events by itself, and wants says which it keeps.
func (r *request) filters() bool { return r.snapshot && r.puts }

func (r *request) wants(e *Event) bool { return !r.puts || e.Type == Put }
