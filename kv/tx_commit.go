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

// A transaction is committed by one request. Its comparisons hold if and only if nothing that the
// function has read was changed. Each key that was read must have the same mod revision, and no key
// in a listed range may be newer than the revision of the reads. A deletion leaves no newer key, so
// the keys that a listing has yielded are also compared one by one. The Else branch reads the keys
// of Get and GetMany for the next attempt. See docs/transactions.md.

// readWriteKeys returns the keys that the transaction both reads and writes, sorted.
func (t *Tx) readWriteKeys() []string {
	keys := make([]string, 0, len(t.writes))
	for key := range t.writes {
		if _, wasRead := t.readRevisions[key]; wasRead {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// checkLimits checks the request that commits the transaction. It counts operations in the same way
// as etcd: the maximum of comparisons and branches, plus what is nested.
func (t *Tx) checkLimits() error {
	o := &t.t.opts
	compares, writes, nested := len(t.readRevisions)+len(t.ranges), len(t.writes), 0
	size := guardBytes(o.guards)
	for _, g := range o.guards {
		compares += len(g.compares)
		nested = max(nested, len(g.compares))
	}
	if o.once {
		compares, writes, nested = compares+1, writes+1, max(nested, 1)
		size += 3 * batchOpOverhead
	}
	for key, w := range t.writes {
		n := len(key) + len(w.value) + opOverhead
		if t.keepsLease(key, w) {
			nested = max(nested, 1)
			n *= 2
		}
		size += n
	}
	for key := range t.readRevisions {
		size += 2 * (len(key) + opOverhead)
	}
	for _, r := range t.ranges {
		size += len(r.From) + len(r.To) + opOverhead
	}
	limits := t.t.limits
	if n := max(compares, writes) + nested; n > limits.TxnOps {
		return fmt.Errorf("%w: the transaction has read %d keys and ranges and writes %d, which with its options is %d operations or compares; the limit is %d",
			errs.TooLarge, len(t.readRevisions)+len(t.ranges), len(t.writes), n, limits.TxnOps)
	}
	return limits.request(size)
}

// keepsLease reports whether a write needs a nested transaction that checks whether the key exists.
func (t *Tx) keepsLease(key string, w txWrite) bool {
	_, wasRead := t.readRevisions[key]
	return w.opts.sameLease && !wasRead
}

// mutation returns the request that commits the transaction. It grants the leases that the
// transaction needs.
func (t *Tx) mutation(ctx context.Context) (*mutation, error) {
	m := &mutation{op: "transact", key: t.t.ns, guards: t.t.opts.guards, once: t.t.opts.once}
	used := t.ttls()
	for _, key := range slices.Sorted(maps.Keys(t.writes)) {
		w := t.writes[key]
		(&Store{core: t.t.core}).logWrite(ctx, "transact", key, w.value)
		if w.opts.ttlSet {
			lease, err := t.t.leases.lease(ctx, w.opts.ttl, used[w.opts.ttl])
			if err != nil {
				return nil, err
			}
			w.opts.lease = lease
		}
		m.hasLease = m.hasLease || w.opts.lease != 0
		m.then = append(m.then, t.writeOp(key, w))
	}
	t.setBaseRevision(m)
	for _, key := range slices.Sorted(maps.Keys(t.readRevisions)) {
		m.cond = append(m.cond, clientv3.Compare(clientv3.ModRevision(key), "=", t.readRevisions[key]))
	}
	for _, r := range t.ranges {
		m.cond = append(m.cond, clientv3.Compare(clientv3.ModRevision(r.From), "<", t.rev+1).WithRange(r.To))
	}
	if len(m.cond) == 0 {
		return m, nil
	}
	if m.abs == nil { // any key serves
		m.abs = m.cond[0].KeyBytes()
	}
	t.extraKeys = nil
	for _, key := range t.getKeys {
		if key != string(m.abs) {
			t.extraKeys = append(t.extraKeys, key)
			m.extraReads = append(m.extraReads, clientv3.OpGet(key))
		}
	}
	m.mayHoldAgain = t.mayHoldAgain
	return m, nil
}

// writeOp returns a write in the form of client/v3.
func (t *Tx) writeOp(key string, w txWrite) clientv3.Op {
	abs := []byte(key)
	if w.delete {
		del := clientv3.OpDelete("")
		del.WithKeyBytes(abs)
		return del
	}
	if mod, wasRead := t.readRevisions[key]; wasRead && mod == 0 {
		w.opts.sameLease = false // the key does not exist
	}
	put := putOp(abs, w.value, w.opts)
	if t.keepsLease(key, w) {
		put = keepLease(abs, put)
	}
	return put
}

// setBaseRevision selects the key that prevents the request from being applied twice: a key that
// existed when it was read and that the transaction writes. It prefers a put to a delete, because
// the value of a put shows who wrote it.
func (t *Tx) setBaseRevision(m *mutation) {
	for _, key := range t.readWriteKeys() {
		w, mod := t.writes[key], t.readRevisions[key]
		if mod == 0 || m.baseRevision != 0 && w.delete {
			continue
		}
		m.abs, m.baseRevision, m.value = []byte(key), mod, nil
		if !w.delete {
			m.value = w.value
			if m.value == nil {
				m.value = []byte{} // nil means delete
			}
			return
		}
	}
}

// mayHoldAgain reports whether the comparisons of a refused request may hold later. A key that
// existed and has changed never gets its mod revision back. A key that did not exist can
// return to its earlier state, and so can a range, which is not read again. If there is no range and
// no key has changed, it was a guard that did not hold.
func (t *Tx) mayHoldAgain(extra []*pb.ResponseOp) bool {
	again := len(t.ranges) > 0
	for i, key := range t.extraKeys {
		switch mod := t.readRevisions[key]; {
		case onlyKey(extra[i]).GetModRevision() == mod:
		case mod != 0:
			return false
		default:
			again = true
		}
	}
	return again
}

// snapshotOf returns what a refused request has read.
func (t *Tx) snapshotOf(out outcome) *snapshot {
	if len(t.getKeys) == 0 {
		return nil
	}
	s := &snapshot{rev: out.rev, keys: make(map[string]*keyValue, len(t.getKeys))}
	for _, key := range t.getKeys {
		s.keys[key] = out.cur // unless it is in extra, see below
	}
	for i, key := range t.extraKeys {
		s.keys[key] = onlyKey(out.extra[i])
	}
	return s
}

// onlyKey returns the key in the response to a get, or nil if the key does not exist.
func onlyKey(r *pb.ResponseOp) *keyValue {
	if kvs := r.GetResponseRange().GetKvs(); len(kvs) > 0 {
		return kvs[0]
	}
	return nil
}

// changedKey returns a key that has changed since the transaction read it, or "" if none is known.
func (t *Tx) changedKey(now *snapshot) string {
	if now == nil {
		return ""
	}
	for _, key := range t.getKeys {
		if now.keys[key].GetModRevision() != t.readRevisions[key] {
			return key
		}
	}
	return ""
}
