package etcdkit

import (
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
