package etcdkit

import (
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

// Stats counts what a client did. Counters start at 0 with the client and only grow.
type Stats struct {
	// KV counts the calls of the key-value store, over all namespaces of the client.
	KV kv.Stats `json:"kv"`
	// Leases counts what the sessions and kept keys did, Watches the watches, likewise over all namespaces.
	Leases  lease.Stats `json:"leases"`
	Watches watch.Stats `json:"watches"`

	// Endpoints are all endpoints, Evicted those of them that are left out at present.
	Endpoints []string `json:"endpoints"`
	Evicted   []string `json:"evicted,omitzero"`
	// Evictions counts how often an endpoint was left out, by Open as well, Readmissions how often one came back.
	Evictions    uint64 `json:"evictions"`
	Readmissions uint64 `json:"readmissions"`

	// Logins counts the logins tried, LoginFailures those that failed.
	Logins        uint64 `json:"logins"`
	LoginFailures uint64 `json:"loginFailures"`
}

// Stats returns the counters. It is cheap and sends nothing.
func (c *Client) Stats() Stats {
	s := Stats{KV: c.store.Stats(), Leases: c.leases.Stats(), Watches: c.watcher.Stats(), Endpoints: c.endpoints()}
	if c.patrol != nil {
		s.Evicted, s.Evictions, s.Readmissions = c.patrol.leftOut()
	}
	if c.login != nil {
		s.Logins, s.LoginFailures = c.login.count.Load(), c.login.failed.Load()
	}
	return s
}
