package kv

import (
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Guard is what must hold in etcd at the moment a write is applied. Its keys are absolute, so that it works from any
// namespace. The zero Guard always holds.
type Guard struct {
	lost     error
	compares []clientv3.Cmp
}

// NewGuard returns a guard over absolute keys, for packages whose holders can lose what they hold. lost is what a
// refused write matches beside [ErrGuard]. What is compared must not come true again once it was false, as it is with a
// create or mod revision: a write whose guard failed is taken to be refused for good.
func NewGuard(lost error, compares ...clientv3.Cmp) Guard {
	g := Guard{lost: lost}
	for i := range compares {
		g.compares = append(g.compares, compares[i].Clone())
	}
	return g
}

// Compares returns what the guard compares, with absolute keys, for a transaction of client/v3.
func (g Guard) Compares() []clientv3.Cmp {
	out := slices.Clone(g.compares)
	for i := range out {
		out[i] = g.compares[i].Clone()
	}
	return out
}

// Guard returns g itself, so that a Guard can be used where a [Guarded] is asked for.
func (g Guard) Guard() Guard { return g }

// Guarded is anything that can be held and lost: a lock, a permit, a leadership, a session.
type Guarded interface{ Guard() Guard }
