package kv

import (
	"context"
	"fmt"
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// A transaction is committed by one request. Its compares hold if and only if all that the function
// has read is as it was: each key that was read has the mod revision that it had, and in each range
// that was listed no key is newer than the revision of the reads. A deletion leaves no newer key,
// so the keys that a listing has yielded are compared one by one as well. Its Else branch reads
// what Get and GetMany have read, for the next attempt. See docs/transactions.md.

// contended returns the keys that the transaction has read and writes, in order.
func (t *Tx) contended() []string {
	keys := make([]string, 0, len(t.writes))
	for key := range t.writes {
		if _, read := t.guards[key]; read {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// checkLimits checks the request that commits the transaction, the way that etcd counts: the
// longest of compares and branches, and what is nested in it.
func (t *Tx) checkLimits() error {
	o := &t.t.o
	compares, writes, nested := len(t.guards)+len(t.ranges), len(t.writes), 0
	size := guardBytes(o.guards)
	for _, g := range o.guards {
		compares += len(g.compares)
		nested = max(nested, len(g.compares))
	}
	if o.once {
		compares, writes, nested = compares+1, writes+1, max(nested, 1)
		size += 3 * batchOverhead
	}
	for key, w := range t.writes {
		n := len(key) + len(w.value) + opOverhead
		if t.keepsLease(key, w) {
			nested = max(nested, 1)
			n *= 2
		}
		size += n
	}
	for key := range t.guards {
		size += 2 * (len(key) + opOverhead)
	}
	for _, r := range t.ranges {
		size += len(r.From) + len(r.To) + opOverhead
	}
	limits := t.t.limits
	if n := max(compares, writes) + nested; n > limits.TxnOps {
		return fmt.Errorf("%w: the transaction has read %d keys and ranges and writes %d, which with its options is %d operations or compares; the limit is %d",
			errs.TooLarge, len(t.guards)+len(t.ranges), len(t.writes), n, limits.TxnOps)
	}
	return limits.request(size)
}

// keepsLease reports whether a write needs a nested transaction that finds out whether the key is
// there.
func (t *Tx) keepsLease(key string, w txWrite) bool {
	_, read := t.guards[key]
	return w.o.sameLease && !read
}

// mutation returns the request that commits the transaction. It grants the leases that the
// transaction needs.
func (t *Tx) mutation(ctx context.Context) (*mutation, error) {
	m := &mutation{op: "transact", key: t.t.ns, guards: t.t.o.guards, once: t.t.o.once}
	used := t.ttls()
	for _, key := range slices.Sorted(maps.Keys(t.writes)) {
		w := t.writes[key]
		(&Store{core: t.t.core}).logWrite(ctx, "transact", key, w.value)
		if w.o.ttlSet {
			lease, err := t.t.leases.get(ctx, w.o.ttl, used[w.o.ttl])
			if err != nil {
				return nil, err
			}
			w.o.lease = lease
		}
		m.leased = m.leased || w.o.lease != 0
		m.then = append(m.then, t.writeOp(key, w))
	}
	t.fence(m)
	for _, key := range slices.Sorted(maps.Keys(t.guards)) {
		m.cond = append(m.cond, clientv3.Compare(clientv3.ModRevision(key), "=", t.guards[key]))
	}
	for _, r := range t.ranges {
		m.cond = append(m.cond, clientv3.Compare(clientv3.ModRevision(r.From), "<", t.rev+1).WithRange(r.To))
	}
	if len(m.cond) == 0 {
		return m, nil
	}
	if m.abs == nil { // any key will do
		m.abs = m.cond[0].KeyBytes()
	}
	t.extra = nil
	for _, key := range t.gets {
		if key != string(m.abs) {
			t.extra = append(t.extra, key)
			m.extra = append(m.extra, clientv3.OpGet(key))
		}
	}
	m.mayHoldAgain = t.mayHoldAgain
	return m, nil
}

// writeOp is a write as etcd takes it.
func (t *Tx) writeOp(key string, w txWrite) clientv3.Op {
	abs := []byte(key)
	if w.delete {
		del := clientv3.OpDelete("")
		del.WithKeyBytes(abs)
		return del
	}
	if mod, read := t.guards[key]; read && mod == 0 {
		w.o.sameLease = false // the key is absent
	}
	put := putOp(abs, w.value, w.o)
	if t.keepsLease(key, w) {
		put = keepLease(abs, put)
	}
	return put
}

// fence picks a key that makes a second application of the request impossible: one that was there
// when it was read, and that the transaction writes. A put is better than a delete, since its value
// tells whose it is.
func (t *Tx) fence(m *mutation) {
	for _, key := range t.contended() {
		w, mod := t.writes[key], t.guards[key]
		if mod == 0 || m.succeeds != 0 && w.delete {
			continue
		}
		m.abs, m.succeeds, m.value = []byte(key), mod, nil
		if !w.delete {
			m.value = w.value
			if m.value == nil {
				m.value = []byte{} // nil says delete
			}
			return
		}
	}
}

// mayHoldAgain reports whether the compares of a refused request may hold later: a key that was
// there and has changed does not get its mod revision back, whereas a key that was absent, or a
// range, can be again what it was.
func (t *Tx) mayHoldAgain(extra []*pb.ResponseOp) bool {
	for i, key := range t.extra {
		if mod := t.guards[key]; mod != 0 && onlyKey(extra[i]).GetModRevision() != mod {
			return false
		}
	}
	return true
}

// snapshotOf returns what a refusal has read.
func (t *Tx) snapshotOf(out outcome) *snapshot {
	if len(t.gets) == 0 {
		return nil
	}
	s := &snapshot{rev: out.rev, keys: make(map[string]*keyValue, len(t.gets))}
	for _, key := range t.gets {
		s.keys[key] = out.cur // or one of extra
	}
	for i, key := range t.extra {
		s.keys[key] = onlyKey(out.extra[i])
	}
	return s
}

// onlyKey returns the key that a get has found, nil if it is absent.
func onlyKey(r *pb.ResponseOp) *keyValue {
	if kvs := r.GetResponseRange().GetKvs(); len(kvs) > 0 {
		return kvs[0]
	}
	return nil
}

// changedKey returns a key that is not what the transaction has read, "" if that is not known.
func (t *Tx) changedKey(now *snapshot) string {
	if now == nil {
		return ""
	}
	for _, key := range t.gets {
		if now.keys[key].GetModRevision() != t.guards[key] {
			return key
		}
	}
	return ""
}
