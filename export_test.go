package etcdkit

import (
	"context"
	"net"
)

// WithLookup sets the function that looks up SRV records.
func WithLookup(f func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)) Option {
	return func(o *options) { o.lookup = f }
}

// ExplainHealth adds to the error of a read what the members' status proves.
func ExplainHealth(h Health, err error) error { return h.explain(err) }

// Token returns the token that the settings of c still contain.
func Token(c *Client) string { return c.conn.settings.token }

// Lockers returns the number of lockers that c keeps.
func Lockers(c *Client) int {
	c.conn.lockers.mu.Lock()
	defer c.conn.lockers.mu.Unlock()
	return len(c.conn.lockers.byDir)
}

// EndpointConnections returns the number of connections of c to single endpoints.
func EndpointConnections(c *Client) int { return c.conn.pool.Len() }
