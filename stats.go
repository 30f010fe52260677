package etcdkit

import (
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
// services. It sends nothing. docs/operations.md lists the metrics, with alerts.
//
// Each series, which is a name with labels, comes once, and those of a name are next to each other.
// Parts with equal labels are added up; the age of several is that of the oldest. Counters include
// parts that are closed. A gauge with a label is missing once all its parts are closed.
//
// Labels never hold keys or values. The only ones are dir for caches and configurations, and
// service for package discovery. Each has at most 100 values per package: after that, a value of
// which all parts are closed is merged into the value "other", or, if there is none, the new one
// is. Durations are those of [Observer.Operation].
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
