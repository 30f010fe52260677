package kv

import (
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
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

// WithGuard makes etcd refuse the write, in the same transaction, if what a guard stands for was
// lost. The error then matches [ErrGuard] and the error of the owner. It costs no additional RPC.
// If several guards are given, all must hold.
func WithGuard(g ...Guarded) WriteOption {
	return option(func(o *options) {
		for _, one := range g {
			if one == nil {
				o.addError("WithGuard: nil")
				continue
			}
			guard := one.Guard()
			for i := range guard.compares {
				if len(guard.compares[i].KeyBytes()) == 0 {
					o.addError("WithGuard: a compare without a key")
				}
			}
			o.guards = append(o.guards, guard)
		}
	})
}

// guardOps returns the operations that find out which guards hold.
func guardOps(guards []Guard) []clientv3.Op {
	ops := make([]clientv3.Op, len(guards))
	for i, g := range guards {
		ops[i] = clientv3.OpTxn(g.compares, nil, nil)
	}
	return ops
}

// guardError returns the error for the guards that do not hold, given their responses in order. It
// returns nil if all hold.
func guardError(guards []Guard, responses []*pb.ResponseOp) error {
	var all []error
	for i, g := range guards {
		switch {
		case responses[i].GetResponseTxn().GetSucceeded():
		case g.lost == nil:
			all = append(all, ErrGuard)
		default:
			all = append(all, fmt.Errorf("%w: %w", ErrGuard, g.lost))
		}
	}
	return joinErrors(all)
}

// guardBytes returns the size that guards add to a request. Each comparison is sent twice: once to
// guard the write, and once to find the guard that failed.
func guardBytes(guards []Guard) (n int) {
	for _, g := range guards {
		for i := range g.compares {
			c := &g.compares[i]
			n += 2 * (len(c.KeyBytes()) + len(c.GetCompare().GetRangeEnd()) + len(c.ValueBytes()) + opOverhead)
		}
	}
	return n
}

func sameGuards(a, b []Guard) bool {
	return slices.EqualFunc(a, b, func(a, b Guard) bool {
		return slices.EqualFunc(a.compares, b.compares, func(a, b clientv3.Cmp) bool {
			return proto.Equal(a.GetCompare(), b.GetCompare())
		})
	})
}
