package kv

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Txn is a clientv3.Txn below the namespace of a [Store], with compares and operations of client/v3 on relative keys.
//
// Unlike client/v3's it does not panic: what is wrong with it is returned by Commit, before anything is sent, and that
// includes the limits and a key that is written twice. It is sent again only when it was provably not applied; a
// transaction that reads is repeated like any read. See [Store.Txn].
type Txn struct{ clientv3.Txn }

// Txn begins a transaction. All of it is applied at one revision, or nothing. One RPC, at Commit. It needs at least one
// operation. A get of a range leaves out the library's own keys, as List does; it counts for three operations if the range
// reaches across them. A compare of a range does not leave them out. The outcome is unknown ([ErrUnknownOutcome]) when the answer to one that writes is lost. Txn is for one
// goroutine and one Commit.
func (s *Store) Txn(ctx context.Context) *Txn {
	t := &txn{s: s, ctx: ctx, keys: keyMapper{dir: s.ns, end: rangeEnd(s.ns), err: s.bad}}
	return &Txn{Txn: t}
}

// Guard makes the transaction depend on what is held. When that is lost neither branch is carried out, and Commit returns
// an error that matches [ErrGuard] and the owner's condition. It comes before If, Then and Else, which return client/v3's own
// interface. A Txn that was not made by [Store.Txn] cannot be guarded: its
// Commit returns [ErrInvalid].
func (t *Txn) Guard(g ...Guarded) *Txn {
	inner, ok := t.Txn.(*txn)
	if !ok {
		s := &Store{core: &core{}, bad: fmt.Errorf("%w: only a transaction of Store.Txn can be guarded", errs.Invalid)}
		return s.Txn(nil) //nolint:staticcheck // nothing is ever sent
	}
	var o options
	WithGuard(g...).put(&o)
	inner.guards = append(inner.guards, o.guards...)
	inner.bad = append(inner.bad, o.complaints...)
	return t
}

// With applies options to the transaction, as they apply to any write. Only [WithGuard] fits a transaction; with others
// Commit returns [ErrInvalid]. Like [Txn.Guard], it comes before If, Then and Else.
func (t *Txn) With(o ...WriteOption) *Txn {
	inner, ok := t.Txn.(*txn)
	if !ok {
		return t.Guard() // which refuses it
	}
	var all options
	for _, one := range o {
		if one != nil {
			one.put(&all)
		}
	}
	if all.once {
		all.complain("WithOnce does not fit a transaction")
	}
	inner.guards = append(inner.guards, all.guards...)
	inner.bad = append(inner.bad, all.complaints...)
	return t
}

// txn collects a transaction.
type txn struct {
	s    *Store
	ctx  context.Context //nolint:containedctx // client/v3's interface gives it at the beginning and needs it at Commit
	keys keyMapper

	guards               []Guard
	cmps                 []clientv3.Cmp
	then, orElse         []clientv3.Op
	hasIf, hasThen, hasE bool
	committed            bool
	bad                  []error
}

func (t *txn) complain(text string) {
	t.bad = append(t.bad, fmt.Errorf("%w: %s", errs.Invalid, text))
}

// If takes the compares. At most once, and first.
func (t *txn) If(cs ...clientv3.Cmp) clientv3.Txn {
	if t.hasIf || t.hasThen || t.hasE {
		t.complain("If comes once, and first")
	}
	t.hasIf = true
	t.cmps = append(t.cmps, cs...)
	return t
}

// Then takes the operations for when the compares hold. At most once, and before Else.
func (t *txn) Then(ops ...clientv3.Op) clientv3.Txn {
	if t.hasThen || t.hasE {
		t.complain("Then comes once, and before Else")
	}
	t.hasThen = true
	t.then = append(t.then, ops...)
	return t
}

// Else takes the operations for when they do not. At most once.
func (t *txn) Else(ops ...clientv3.Op) clientv3.Txn {
	if t.hasE {
		t.complain("Else comes once")
	}
	t.hasE = true
	t.orElse = append(t.orElse, ops...)
	return t
}

// Commit checks the transaction and sends it.
func (t *txn) Commit() (*clientv3.TxnResponse, error) {
	op, writes, err := t.build()
	if err != nil {
		return nil, fail("txn", "", err)
	}
	t.committed = true
	for _, put := range slices.Concat(t.then, t.orElse) {
		if put.IsPut() {
			t.s.logWrite(t.ctx, "txn", string(put.KeyBytes()), put.ValueBytes())
		}
	}
	resp, err := retry.Do(t.ctx, t.s.engine, retry.Call{Pkg: "kv", Op: "txn", Read: !writes}, func(ctx context.Context, _ bool) (*clientv3.TxnResponse, error) {
		r, err := t.s.kv.Do(ctx, op)
		return r.Txn(), err
	})
	if err != nil {
		return nil, err
	}
	if len(t.guards) > 0 {
		if resp, err = t.unwrap(resp); err != nil {
			return nil, fail("txn", "", err)
		}
	}
	mergeGets(t.then, t.orElse, (*pb.TxnResponse)(resp))
	if err := t.keys.trimTxn(resp); err != nil {
		return nil, badResponse("txn", "", err)
	}
	return resp, nil
}

// build checks all there is and makes one operation of it, with absolute keys.
func (t *txn) build() (op clientv3.Op, writes bool, err error) {
	if t.committed {
		t.complain("committed already")
	}
	if t.keys.err == nil && len(t.then)+len(t.orElse) == 0 {
		t.complain("no operations")
	}
	c, then, orElse := counted{Store: t.s}, splitGets(t.then), splitGets(t.orElse)
	if t.s.bad == nil {
		bad := c.branch(t.cmps, then, orElse, t.s.limits.TxnOps-t.guardOps())
		t.bad = append(append(t.bad, bad...), t.s.limits.request(c.bytes+guardBytes(t.guards)))
	}
	if err := join(t.bad); err != nil {
		return op, false, err
	}
	op, err = t.keys.absoluteTxn(clientv3.OpTxn(t.cmps, then, orElse))
	if err != nil || len(t.guards) == 0 {
		return op, c.writes, err
	}
	// If the guards hold, then the transaction; else find out which of them does not.
	var all []clientv3.Cmp
	var which []clientv3.Op
	for _, g := range t.guards {
		all = append(all, g.compares...)
		which = append(which, clientv3.OpTxn(g.compares, nil, nil))
	}
	return clientv3.OpTxn(all, []clientv3.Op{op}, which), c.writes, nil
}

// guardOps is how many operations of the limit the guards use up.
func (t *txn) guardOps() int {
	n := len(t.guards)
	for _, g := range t.guards {
		n += len(g.compares)
	}
	return n
}

// unwrap takes the guards off the answer.
func (t *txn) unwrap(resp *clientv3.TxnResponse) (*clientv3.TxnResponse, error) {
	if resp.Succeeded {
		inner := resp.Responses[0].GetResponseTxn()
		inner.Header = resp.Header
		return (*clientv3.TxnResponse)(inner), nil
	}
	return nil, lostGuards(t.guards, resp.Responses)
}
