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

// A WatcherOption configures a Watcher; see [New].
type WatcherOption func(*config)

// An Option configures one watch; see [Watcher.Watch], [Watcher.Subscribe] and [Watcher.Consume].
type Option func(*request)

// config is the result of the options of a watcher.
type config struct {
	namespace string
	logger    *slog.Logger
	resync    func(selector string, folded int)
}

// WithNamespace makes selectors and event keys relative to dir. Keys outside of dir are not
// visible. Default: no namespace.
func WithNamespace(dir string) WatcherOption { return func(c *config) { c.namespace = dir } }

// WithLogger sets the logger. Lost streams are logged at Debug, gaps and resyncs at Info, the
// beginning and the end of an outage at Warn (for all watches together, at most once a minute), and
// panics of handlers at Error. Default: [slog.Default], from Warn up.
func WithLogger(l *slog.Logger) WatcherOption { return func(c *config) { c.logger = l } }

// WithResyncHook calls f after each resync of a state watch, with the selector and the number of
// changes in the difference. f runs on the watch's goroutine, concurrently for several watches, and
// must return quickly. Default: none.
func WithResyncHook(f func(selector string, folded int)) WatcherOption {
	return func(c *config) { c.resync = f }
}

// newConfig applies the options and returns the namespace. err is the error of an invalid one.
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

// How far a watch may lag, in events and in bytes.
const (
	defaultBuffer = 4096
	bufferBytes   = 16 << 20
)

// request is the result of the options of one watch.
type request struct {
	sel  Selector
	span span

	snapshot bool
	partial  bool
	after    int64
	afterSet bool
	prev     bool
	puts     bool // only puts
	deletes  bool // only deletes
	coalesce bool
	every    time.Duration
	everySet bool
	buffer   int
}

// WithSnapshot starts with the current state. The watch keeps an index of keys, so that it delivers
// a [Resync] batch if history is lost. Default: the watch starts from now, and ends with a
// [*CompactedError] if changes that it needs are compacted.
func WithSnapshot() Option { return func(r *request) { r.snapshot = true } }

// WithAfter starts with the first change after rev, a Batch.Revision of an earlier watch. If
// changes after rev were compacted, the watch ends with a [*CompactedError]. Together with
// [WithSnapshot] it delivers a Resync of the whole state instead, also if a list is cheaper than
// the changes since rev. If rev is ahead of the cluster, the watch ends with [ErrHistoryRewritten].
// Default: from now on.
func WithAfter(rev int64) Option {
	return func(r *request) { r.after, r.afterSet = rev, true }
}

// WithPrevValue sets Event.PrevValue of live events. It costs etcd a read per event. Default: not
// set.
func WithPrevValue() Option { return func(r *request) { r.prev = true } }

// WithPutsOnly omits deletes. Default: both.
func WithPutsOnly() Option { return func(r *request) { r.puts = true } }

// WithDeletesOnly omits puts. Together with [WithSnapshot] it is invalid. Default: both.
func WithDeletesOnly() Option { return func(r *request) { r.deletes = true } }

// WithProgress delivers a [Progress] batch at the start of a watch without a snapshot, and whenever
// nothing was delivered for the given time while the cluster's revision advanced. Each costs a
// message. Progress is requested at most once a second, so shorter times gain nothing. Default:
// none, and 30 s for Consume.
func WithProgress(every time.Duration) Option {
	return func(r *request) { r.every, r.everySet = every, true }
}

// WithBuffer sets how many events the watch may lag before it loses its place in the log; see Slow
// consumers in the package documentation. A lag of 16 MiB is always too much, a single batch never.
// Default: 4096.
func WithBuffer(events int) Option { return func(r *request) { r.buffer = events } }

// WithCoalescing delivers what a slow consumer is missing as one batch, with the latest change of
// each key. What exceeds the limits of [WithBuffer] comes in more batches, or with [WithSnapshot]
// as a [Resync]. Default: every change in a batch of its revision.
func WithCoalescing() Option { return func(r *request) { r.coalesce = true } }

// WithPartialPrefix allows a prefix that does not end in "/". Default: such a prefix is invalid.
func WithPartialPrefix() Option { return func(r *request) { r.partial = true } }

// newRequest applies the options of one watch below ns and validates them. It sends nothing.
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

// key returns the key of the server-side watch that serves the request. State watches share one
// with all events, because their index needs them.
func (r *request) key() hubKey {
	k := hubKey{ns: r.span.ns, from: r.span.From, to: r.span.To, prev: r.prev, hide: r.span.hide}
	if !r.snapshot {
		k.puts, k.deletes = r.puts, r.deletes
	}
	return k
}

// filters reports whether the watch itself must omit events. wants reports which it delivers.
func (r *request) filters() bool { return r.snapshot && r.puts }

func (r *request) wants(e *Event) bool { return !r.puts || e.Type == Put }
