package etcdkit

import (
	"context"
	"log/slog"
	"net"
	"net/http"
)

// WithLookup answers the DNS questions of discovery.
func WithLookup(f func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)) Option {
	return func(o *options) { o.lookup = f }
}

// NewReadiness is a readiness handler over any check.
func NewReadiness(check func(ctx context.Context) error) http.Handler {
	return &readiness{check: check}
}

// Patrol is a patrol over any client and network.
type Patrol struct{ p *patrol }

// NewPatrol returns a patrol that leaves the given endpoints out at first.
func NewPatrol(cli balanced, probe func(ctx context.Context, ep string) error, keep func([]string), out ...string) Patrol {
	p := newPatrol(cli, probe, keep, slog.New(slog.DiscardHandler))
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

// Endpoints is everything under patrol.
func (p Patrol) Endpoints() []string { return p.p.endpoints() }
