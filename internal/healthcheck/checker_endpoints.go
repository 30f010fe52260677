package healthcheck

import (
	"slices"

	"github.com/etcdkit/etcdkit/internal/endpoint"
)

// adopt replaces the endpoints. Those that stay keep their state, but are no longer evicted.
func (c *Checker) adopt(eps []string) {
	old := c.states
	c.states = nil
	for _, ep := range eps {
		i := slices.IndexFunc(old, func(s *endpointState) bool { return s.endpoint == ep })
		if i < 0 {
			c.states = append(c.states, &endpointState{endpoint: ep})
			continue
		}
		old[i].evicted = false
		c.states = append(c.states, old[i])
	}
	c.applied = eps
}

// Evict evicts endpoints that have not answered, and logs it.
func (c *Checker) Evict(failed endpoint.Errors) {
	c.mu.Lock()
	for _, e := range failed {
		for _, s := range c.states {
			if s.endpoint == e.Endpoint {
				s.evicted, s.err, s.failures = true, e.Err, failureThreshold
				c.countEviction()
			}
		}
	}
	c.applyStates()
	c.mu.Unlock()
	c.logOutages()
}

// ReadmitAll readmits all endpoints.
func (c *Checker) ReadmitAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.states {
		if s.evicted {
			s.evicted = false
			c.readmissions++
		}
	}
	c.applyStates()
}

// Replace sets the endpoints of the client. Evicted ones that stay on the list stay evicted.
func (c *Checker) Replace(eps []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	evicted := map[string]bool{}
	for _, s := range c.states {
		evicted[s.endpoint] = s.evicted
	}
	c.adopt(eps)
	for _, s := range c.states {
		s.evicted = evicted[s.endpoint]
	}
	if len(c.inUse()) == 0 {
		for _, s := range c.states {
			s.evicted = false
		}
	}
	c.applyStates()
	c.cfg.Prober.Retain(eps)
}

// applyStates sets the endpoints that are not evicted. The caller holds mu.
func (c *Checker) applyStates() {
	c.applied = c.inUse()
	c.cfg.Balancer.SetEndpoints(c.applied...)
}

// countEviction counts an eviction and closes changed.
func (c *Checker) countEviction() {
	c.evictions++
	close(c.changed)
	c.changed = make(chan struct{})
}

// adoptChanges adopts endpoints that were set directly on the client.
func (c *Checker) adoptChanges() {
	c.mu.Lock()
	defer c.mu.Unlock()
	eps := c.cfg.Balancer.Endpoints()
	if slices.Equal(eps, c.applied) {
		return
	}
	c.adopt(eps)
	c.cfg.Prober.Retain(eps)
}

// Endpoints returns all endpoints, including evicted ones, or those that were set directly on the
// client since the last round.
func (c *Checker) Endpoints() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if eps := c.cfg.Balancer.Endpoints(); !slices.Equal(eps, c.applied) {
		return eps
	}
	out := make([]string, len(c.states))
	for i, s := range c.states {
		out[i] = s.endpoint
	}
	return out
}

// InUse returns the endpoints that are not evicted.
func (c *Checker) InUse() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inUse()
}

// inUse is InUse for callers that hold mu.
func (c *Checker) inUse() []string {
	var out []string
	for _, s := range c.states {
		if !s.evicted {
			out = append(out, s.endpoint)
		}
	}
	return out
}

// HasSeveral reports whether there is more than one endpoint.
func (c *Checker) HasSeveral() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.states) > 1
}

// IsEvicted reports whether ep is evicted. If not, changed is closed on the next eviction of any
// endpoint.
func (c *Checker) IsEvicted(ep string) (evicted bool, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.states, func(s *endpointState) bool { return s.endpoint == ep && s.evicted }), c.changed
}

// Evicted returns the evicted endpoints, and the numbers of evictions and readmissions so far.
func (c *Checker) Evicted() (eps []string, evictions, readmissions uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.states {
		if s.evicted {
			eps = append(eps, s.endpoint)
		}
	}
	return eps, c.evictions, c.readmissions
}
