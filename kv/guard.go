package kv

import (
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Guard is a condition that etcd checks in the same transaction as a write. Its keys are absolute,
// so it works from any namespace. The zero Guard always holds.
type Guard struct {
	lost     error
	compares []clientv3.Cmp
}

// NewGuard returns a guard over absolute keys, for packages whose holders can lose what they hold.
// A write that the guard refuses returns an error that matches lost and [ErrGuard]. A comparison
// that has become false must never become true again, as is the case for create and mod revisions:
// a refused write is treated as permanently refused.
func NewGuard(lost error, compares ...clientv3.Cmp) Guard {
	g := Guard{lost: lost}
	for i := range compares {
		g.compares = append(g.compares, compares[i].Clone())
	}
	return g
}

// Compares returns the comparisons of the guard, with absolute keys, for a transaction of
// client/v3.
func (g Guard) Compares() []clientv3.Cmp {
	out := slices.Clone(g.compares)
	for i := range out {
		out[i] = g.compares[i].Clone()
	}
	return out
}

// Guard returns g, so that a Guard is itself a [Guarded].
func (g Guard) Guard() Guard { return g }

// Guarded is implemented by whatever a process can hold and lose: a lock, a permit, a leadership, a
// session.
type Guarded interface{ Guard() Guard }
