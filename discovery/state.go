package discovery

import "github.com/etcdkit/etcdkit/lease"

// State says how a registration is doing.
type State int

const (
	// Registered means that the instance is, as far as is known, in etcd.
	Registered State = iota
	// Suspended means that it is not: it was not registered yet, it is being restored, or somebody else has its ID.
	Suspended
	// Leaving means that it is marked as draining.
	Leaving
	// Closed means that it is over.
	Closed
)

// String is the state in lower case.
func (s State) String() string {
	switch s {
	case Registered:
		return "registered"
	case Suspended:
		return "suspended"
	case Leaving:
		return "leaving"
	case Closed:
		return "closed"
	}
	return "unknown"
}

// State says how the registration is doing. It sends nothing.
func (g *Registration) State() State {
	if g.ctx.Err() != nil {
		return Closed
	}
	leaving := true
	for _, p := range g.keys {
		if p.state() != lease.Alive {
			return Suspended
		}
		leaving = leaving && p.isDraining()
	}
	if leaving {
		return Leaving
	}
	return Registered
}
