package kv

import (
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// rangeEnd returns the first key after the namespace.
func rangeEnd(ns string) []byte { return []byte(keyspace.End(ns)) }

// counted checks a transaction against the limits, in the same way as etcd: the maximum of
// comparisons and branches counts, and the remainder is available to each nested transaction.
type counted struct {
	*Store

	writes bool
	bytes  int
}

// branch returns what is wrong with a transaction of at most room operations, and with its nested
// ones.
func (c *counted) branch(cmps []clientv3.Cmp, then, orElse []clientv3.Op, room int) (bad []error) {
	n := max(len(cmps), len(then), len(orElse))
	if err := c.limits.ops(n, room); err != nil {
		bad = append(bad, err)
	}
	for i := range cmps {
		bad = append(bad, c.key(cmps[i].KeyBytes())...)
		c.bytes += len(cmps[i].KeyBytes()) + len(cmps[i].ValueBytes()) + opOverhead
	}
	for _, ops := range [][]clientv3.Op{then, orElse} {
		if err := twice(ops); err != nil {
			bad = append(bad, err)
		}
		for _, op := range ops {
			bad = append(bad, c.op(op, room-n)...)
		}
	}
	return bad
}

// op returns what is wrong with one operation.
func (c *counted) op(op clientv3.Op, room int) (bad []error) {
	if op.IsTxn() {
		cmps, then, orElse := op.Txn()
		return c.branch(cmps, then, orElse, room)
	}
	key := string(op.KeyBytes())
	c.bytes += len(key) + len(op.RangeBytes()) + len(op.ValueBytes()) + opOverhead
	if op.IsPut() || op.IsDelete() {
		c.writes = true
		if c.hides(reach(op)) {
			bad = append(bad, errHidden)
		}
	}
	if op.Rev() < 0 || op.Limit() < 0 {
		bad = append(bad, fmt.Errorf("%w: %s of key %s: negative revision or limit", errs.Invalid, verb(op), errs.Quote(key)))
	}
	return append(bad, c.key(op.KeyBytes())...)
}

// hides reports whether a relative range contains keys of the library, either those of this store's
// namespace or those of the store that New returned.
func (c *counted) hides(r keyspace.Range) bool {
	abs := keyspace.Range{From: c.ns + r.From, To: c.ns + r.To}
	if r.To == keyspace.ToEnd {
		abs.To = keyspace.End(c.ns)
	}
	return !r.Intersect(keyspace.Under(keyspace.Hidden)).Empty() || !abs.Intersect(keyspace.Under(c.hidden)).Empty()
}

// key returns what is wrong with a key. Empty keys are refused later, when keys are mapped.
func (c *counted) key(rel []byte) []error {
	if len(rel) > 0 {
		if err := c.checkKey(string(rel)); err != nil {
			return []error{err}
		}
	}
	return nil
}

// twice returns an error if a branch puts a key twice, or puts and deletes it. etcd would refuse it
// only after receiving the whole request. Writes in nested transactions are left for etcd to check.
func twice(ops []clientv3.Op) error {
	puts := make(map[string]bool)
	for _, op := range ops {
		if !op.IsPut() {
			continue
		}
		key := string(op.KeyBytes())
		if puts[key] {
			return fmt.Errorf("%w: key %s is put twice", errs.Invalid, errs.Quote(key))
		}
		puts[key] = true
	}
	for _, op := range ops {
		if !op.IsDelete() {
			continue
		}
		for key := range puts {
			if reach(op).Contains(key) {
				return fmt.Errorf("%w: key %s is both put and deleted", errs.Invalid, errs.Quote(key))
			}
		}
	}
	return nil
}

// reach returns the range of an operation.
func reach(op clientv3.Op) keyspace.Range {
	r := keyspace.One(string(op.KeyBytes()))
	if end := op.RangeBytes(); len(end) > 0 {
		r.To = string(end)
	}
	return r
}
