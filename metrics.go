package etcdkit

import (
	"context"
	"iter"
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

// Stats describes what a client has done. The counters start at 0 when the client is created and
// never decrease.
type Stats struct {
	// KV counts the calls of the key-value store, for all namespaces of the client.
	KV kv.Stats `json:"kv"`
	// Leases counts the work of sessions and kept keys, Watches that of watches, both for all
	// namespaces of the client.
	Leases  lease.Stats `json:"leases"`
	Watches watch.Stats `json:"watches"`

	// Endpoints are all endpoints, Evicted those that are not in use at present.
	Endpoints []string `json:"endpoints"`
	Evicted   []string `json:"evicted,omitzero"`
	// Evictions counts evictions of endpoints, including those by Open. Readmissions counts
	// readmissions.
	Evictions    uint64 `json:"evictions"`
	Readmissions uint64 `json:"readmissions"`

	// Logins counts attempted logins, LoginFailures those that failed.
	Logins        uint64 `json:"logins"`
	LoginFailures uint64 `json:"loginFailures"`
}

// Stats returns the current counters. It is cheap and sends nothing.
func (c *Client) Stats() Stats {
	s := Stats{KV: c.store.Stats(), Leases: c.leases.Stats(), Watches: c.watcher.Stats(), Endpoints: c.conn.endpoints()}
	if c.conn.checker != nil {
		s.Evicted, s.Evictions, s.Readmissions = c.conn.checker.Evicted()
	}
	if c.conn.auth != nil {
		s.Logins, s.LoginFailures = c.conn.auth.Counts()
	}
	return s
}

// metrics describes the fields of Stats that are not those of a part.
//
//nolint:gochecknoglobals // a constant
var metrics = scope.Table[Stats]{Package: "client", Fields: []scope.Field[Stats]{
	scope.Gauge("endpoints", "Endpoints of the client, including evicted ones.", func(s *Stats) int { return len(s.Endpoints) }),
	scope.Gauge("endpoints_evicted", "Endpoints that are not in use at present.", func(s *Stats) int { return len(s.Evicted) }),
	scope.Counter("evictions_total", "Evictions of endpoints.", func(s *Stats) uint64 { return s.Evictions }),
	scope.Counter("readmissions_total", "Readmissions of endpoints.", func(s *Stats) uint64 { return s.Readmissions }),
	scope.Counter("logins_total", "Attempted logins.", func(s *Stats) uint64 { return s.Logins }),
	scope.Counter("login_failures_total", "Failed logins.", func(s *Stats) uint64 { return s.LoginFailures }),
}}

// Metric is the value of a series at one time.
type Metric struct {
	Name, Help, Unit string // as in Prometheus: etcdkit_lock_waits_total; Unit is "seconds" or ""
	Kind             MetricKind
	Labels           [][2]string // names and values
	Value            float64
	Start            time.Time // when a counter began at 0
}

// MetricKind is the kind of a [Metric].
type MetricKind int

// The kinds of metrics.
const (
	Counter MetricKind = iota // never decreases
	Gauge
)

// String returns "counter" or "gauge".
func (k MetricKind) String() string {
	switch k {
	case Counter:
		return "counter"
	case Gauge:
		return "gauge"
	}
	return "MetricKind(" + strconv.Itoa(int(k)) + ")"
}

// Metrics yields every counter and gauge of all parts that were made with the client or with those
// that Namespace derives from it: those of Stats, and of caches, configurations, lockers and
// services. It sends nothing. [docs/operations.md] lists the metrics, with alerts.
//
// Each series, which is a name with labels, comes once, and those of a name are next to each other.
// Parts with equal labels are added up; the age of several is that of the oldest. Counters include
// parts that are closed. A gauge with a label is missing once all its parts are closed.
//
// Labels never hold keys or values. The only ones are dir for caches and configurations, and
// service for package discovery. Each has at most 100 values per package. Beyond that, the counters
// of a value whose parts are all closed are added to the value "other"; if there is none, a new
// part is counted as "other". Durations are those of [Observer.Operation].
//
// [docs/operations.md]: https://github.com/etcdkit/etcdkit/blob/main/docs/operations.md
func (c *Client) Metrics() iter.Seq[Metric] {
	return func(yield func(Metric) bool) {
		for _, m := range c.conn.settings.scope.Metrics() {
			kind := Gauge
			if m.Counter {
				kind = Counter
			}
			if !yield(Metric{m.Name, m.Help, m.Unit, kind, m.Labels, m.Value, m.Start}) {
				return
			}
		}
	}
}

// WithObserver sets hooks for metrics and tracing. Default: none.
func WithObserver(obs Observer) Option { return func(o *options) { o.observer = obs } }

// Observer is a set of optional hooks for tracing and for metrics that [Client.Metrics] does not
// have, such as durations. A nil hook costs nothing.
//
// A hook runs on the goroutine that triggers it, so it must return quickly, with the context of the
// call. Exceptions are LeaseLost and the end of a lock that is lost, which have goroutines of their
// own, and work that no single call causes, such as the resync of a watch, whose context has no
// values of a caller. Hooks must be safe for concurrent use. A panic in a hook is recovered and
// logged.
type Observer struct {
	// Operation is called when an operation begins, and the function that it returns when the
	// operation ends. The operation continues with the context that Operation returns, which must
	// be derived from ctx. Either result may be nil. See Operation.
	Operation func(ctx context.Context, op Operation) (context.Context, func(OperationResult))
	// Retry is called before a request is repeated, with the request, the number of the failed
	// attempt, counted from 1, and its error. ctx belongs to the operation that needs the request.
	Retry func(ctx context.Context, op Operation, attempt int, err error)
	// LeaseLost is called when a session ends other than by being closed. ctx ends with the client.
	LeaseLost func(ctx context.Context, cause error)
	// WatchResync is called when a watch continues from the current state because its history was
	// lost. folded is the number of changes that it reported for the difference.
	WatchResync func(ctx context.Context, selector string, folded int)
	// CacheLookup is called for each read of a Cache that was opened with the client. dir is the
	// dir of the Cache; hit reports whether it answered from memory.
	CacheLookup func(ctx context.Context, dir string, hit bool)
}

// Operation identifies an operation for [Observer]. Operations may contain others: a cache fills an
// entry with a transaction of the store.
//
//	Package    Name                      Target   lasts
//	kv         the method, such as put   ""       until it returns, with a loop over List
//	lock       wait, try, campaign       name     until the lock is held, or not
//	lock       hold                      name     until the lock is released or lost
//	watch      resync                    ""       until the state is delivered again
//	cache      fill                      dir      for one read of etcd, shared by all callers
//	discovery  register                  service  until Register returns
//
// Names of several words are separated by spaces, as in "delete prefix". In [Observer.Retry], Name
// is a request, which may be a part of an operation, and Target is "".
type Operation struct {
	Package, Name string
	Target        string // a name that the program chose, never a key or a value
}

// OperationResult is the result of an [Operation].
type OperationResult struct {
	Err      error // why it failed, or why a lock was lost; its text may contain keys
	Attempts int   // requests sent to etcd, including repeated ones
	Revision int64 // of what was written or read; a fencing token for locks; 0 if there is none
}

// hooks returns the hooks for the packages below, which cannot import this one.
func (o *Observer) hooks() scope.Hooks {
	h := scope.Hooks{LeaseLost: o.LeaseLost, WatchResync: o.WatchResync, CacheLookup: o.CacheLookup}
	if o.Operation != nil {
		h.Operation = func(ctx context.Context, op scope.Operation) (context.Context, func(scope.Result)) {
			next, end := o.Operation(ctx, Operation(op))
			if end == nil {
				return next, nil
			}
			return next, func(r scope.Result) { end(OperationResult(r)) }
		}
	}
	if o.Retry != nil {
		h.Retry = func(ctx context.Context, op scope.Operation, attempt int, err error) {
			o.Retry(ctx, Operation(op), attempt, err)
		}
	}
	return h
}
