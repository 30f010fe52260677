package cache

import (
	"math"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/kv"
)

// node is one version of a key. It has room only for what most keys need: most are at their latest
// version, without a lease and with small numbers. Everything else is in more.
type node[T any] struct {
	key     string
	value   T
	mod     int64
	since   uint32 // revisions from creation to mod
	version uint32
	more    atomic.Pointer[more[T]]
}

// more is the part of a node that most nodes do not have: that it is new, deleted, leased or
// otherwise unusual.
type more[T any] struct {
	step uint64   // the step that added the node; 0 if no reader needs it any more
	prev *node[T] // the version it replaced
	gone bool     // the key is deleted
	keep bool     // gone or one of the fields below is set

	bad             error // the value does not decode
	lease           clientv3.LeaseID
	create, version int64 // if they do not fit into the node, else 0
	sum             uint64
}

// at returns the version of n after a step, or nil if the key was absent.
func (n *node[T]) at(step uint64) *node[T] {
	for n != nil {
		m := n.more.Load()
		if m == nil {
			return n
		}
		if m.step <= step {
			if m.gone {
				return nil
			}
			return n
		}
		n = m.prev
	}
	return nil
}

// isGone reports whether n is nil or marks a deleted key.
func (n *node[T]) isGone() bool {
	if n == nil {
		return true
	}
	m := n.more.Load()
	return m != nil && m.gone
}

// badness returns why the value of n does not decode, or nil if it does.
func (n *node[T]) badness() error {
	if m := n.more.Load(); m != nil {
		return m.bad
	}
	return nil
}

// entry returns n as a kv.Entry.
func (n *node[T]) entry() kv.Entry[T] {
	e := kv.Entry[T]{
		Key: n.key, Value: n.value, ModRevision: n.mod, CreateRevision: n.mod - int64(n.since), Version: int64(n.version),
	}
	if m := n.more.Load(); m != nil {
		e.Lease = m.lease
		if m.version != 0 {
			e.CreateRevision, e.Version = m.create, m.version
		}
	}
	return e
}

// newNode returns the node of an entry. bad is not nil if its value does not decode.
func newNode[T any](e kv.Entry[T], sum uint64, bad error) (*node[T], more[T]) {
	n := &node[T]{key: e.Key, value: e.Value, mod: e.ModRevision}
	m := more[T]{bad: bad, lease: e.Lease, sum: sum}
	since := e.ModRevision - e.CreateRevision
	if since >= 0 && since <= math.MaxUint32 && e.Version >= 0 && e.Version <= math.MaxUint32 {
		n.since, n.version = uint32(since), uint32(e.Version)
	} else {
		m.create, m.version = e.CreateRevision, e.Version
	}
	m.keep = bad != nil || e.Lease != 0 || sum != 0 || m.version != 0
	return n, m
}
