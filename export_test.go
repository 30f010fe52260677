package etcdkit

import (
	"context"
	"log/slog"
	"net"
	"net/http"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// WithLookup answers the DNS questions of discovery.
func WithLookup(f func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)) Option {
	return func(o *options) { o.lookup = f }
}

// NewReadiness is a readiness handler over any check.
func NewReadiness(check func(ctx context.Context) error) http.Handler {
	return &readiness{check: check, gone: func() bool { return false }}
}

// UnsupportedReason is why servers of a version are not supported.
func UnsupportedReason(version string) string { return unsupportedReason(version) }

// ExplainHealth is what the members' answers add to a read that failed.
func ExplainHealth(h Health, err error) error { return h.explain(err) }

// Token is the token that the settings of c still hold.
func Token(c *Client) string { return c.set.token }

// Lockers is the number of lockers that c knows.
func Lockers(c *Client) int {
	c.lockers.mu.Lock()
	defer c.lockers.mu.Unlock()
	return len(c.lockers.byDir)
}

// Lines is the number of connections of c to single endpoints.
func Lines(c *Client) int {
	c.lines.mu.Lock()
	defer c.lines.mu.Unlock()
	return len(c.lines.conns)
}

// OtherEndpoint is the endpoint of eps that a second attempt is sent to if the first one is at addr.
func OtherEndpoint(c *Client, eps []string, addr string) string {
	ep, _ := c.lines.other(eps, addr)
	return ep
}

// Patrol is a patrol over any client and network.
type Patrol struct{ p *patrol }

// NewPatrol returns a patrol that leaves the given endpoints out at first.
func NewPatrol(cli balanced, probe func(ctx context.Context, ep string) error, keep func([]string), out ...string) Patrol {
	log := slog.New(slog.DiscardHandler)
	current := func(context.Context, string) (*pb.StatusResponse, error) {
		return &pb.StatusResponse{Version: "3.7.3"}, nil
	}
	p := newPatrol(cli, probe, keep, &versionChecker{fetch: current, logger: log}, log)
	var rest endpointErrors
	for _, ep := range out {
		rest = append(rest, &EndpointError{Endpoint: ep, Err: errSlow})
	}
	if rest != nil {
		p.leaveOut(rest)
		cli.SetEndpoints(p.in()...)
	}
	return Patrol{p}
}

// Run patrols until ctx ends.
func (p Patrol) Run(ctx context.Context) {
	p.p.start(ctx)
	p.p.wait()
}

// LeftOut is what is out, and how often something was put out and came back.
func (p Patrol) LeftOut() (out []string, evicted, readmitted uint64) { return p.p.leftOut() }

// LogTo sets the logger of the patrol, which has not logged yet.
func (p Patrol) LogTo(l *slog.Logger) { p.p.logger = l }

// Endpoints is everything under patrol.
func (p Patrol) Endpoints() []string { return p.p.endpoints() }

// ReadBy has the patrol, which does not run yet, make linearizable reads by f.
func (p Patrol) ReadBy(f func(ctx context.Context, ep string) error) { p.p.read = f }

// Slower tells the patrol that a call at ep was settled by another endpoint.
func (p Patrol) Slower(ep string) { p.p.slower(ep) }

// Overdue tells the patrol that something at ep is overdue.
func (p Patrol) Overdue(ep string) { p.p.overdue(ep) }

// VersionsBy has the patrol, which does not run yet, ask for versions by f.
func (p Patrol) VersionsBy(f func(ctx context.Context, ep string) (*pb.StatusResponse, error)) {
	p.p.versions.fetch = f
}

// BrokenBy has the patrol, which does not run yet, ask f whether the connection to an endpoint is lost.
func (p Patrol) BrokenBy(f func(ep string) bool) { p.p.isBroken = f }

// Evicted reports whether ep is left out, and else when that may have changed.
func (p Patrol) Evicted(ep string) (bool, <-chan struct{}) { return p.p.evictedAt(ep) }
