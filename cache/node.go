package cache

import (
	"math"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/kv"
)

// node is one version of a key. Most keys are the latest version of themselves, without a lease: so there is room for
// small numbers only, and more has the rest.
type node[T any] struct {
	key     string
	value   T
	mod     int64
	since   uint32 // revisions from creation to mod
	version uint32
	more    atomic.Pointer[more[T]]
}

// more is what a node has that is new, gone, leased, or out of the ordinary in another way.
type more[T any] struct {
	step uint64   // which the node came with, 0 where that is of no interest any more
	prev *node[T] // what it has replaced
	gone bool     // the key is deleted
	keep bool     // there is something below that is not about steps

	bad             error // the value does not decode
	lease           clientv3.LeaseID
	create, version int64 // where they do not fit, else 0
	sum             uint64
}

// at is the version of n that was there after a step, nil where there was none.
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

// isGone reports whether n says that its key is deleted, or is not there to say so.
func (n *node[T]) isGone() bool {
	if n == nil {
		return true
	}
	m := n.more.Load()
	return m != nil && m.gone
}

// badness is why the value of n does not decode, nil where it does.
func (n *node[T]) badness() error {
	if m := n.more.Load(); m != nil {
		return m.bad
	}
	return nil
}

// entry is n as it is handed out.
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

// newNode makes a node of an entry, whose value may be bad.
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
