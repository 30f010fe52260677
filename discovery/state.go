package discovery

import "github.com/etcdkit/etcdkit/lease"

// State is the state of a registration.
type State int

const (
	// Registered means that the instance is in etcd, as far as is known.
	Registered State = iota
	// Suspended means that it is not: it was not registered yet, is being restored, or another
	// process has its ID.
	Suspended
	// Leaving means that the instance is marked as draining.
	Leaving
	// Closed means that the registration has ended.
	Closed
)

// String returns the state in lower case.
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

// State returns the state of the registration. It sends nothing.
func (g *Registration) State() State {
	if g.ctx.Err() != nil {
		return Closed
	}
	leaving := true
	for _, k := range g.keys {
		if k.state() != lease.Alive {
			return Suspended
		}
		leaving = leaving && k.isDraining()
	}
	if leaving {
		return Leaving
	}
	return Registered
}
