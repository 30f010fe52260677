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

// Txn is a clientv3.Txn below the namespace of a [Store]. It takes comparisons and operations of
// client/v3 on relative keys.
//
// Unlike that of client/v3, it does not panic. Commit returns all errors before anything is sent,
// including exceeded limits and keys that are written twice. A transaction that writes is sent
// again only if it provably was not applied; one that only reads is repeated like any read. See
// [Store.Txn].
type Txn struct{ clientv3.Txn }

// Txn begins a transaction. It is applied as a whole, at one revision, or not at all. It costs one
// RPC, at Commit. It needs at least one operation. A get of a range leaves out the library's own
// keys, as List does; if the range reaches across them, the get counts as three operations. A
// comparison of a range includes them. If the response to a transaction that writes is lost, the
// outcome is unknown ([ErrUnknownOutcome]). A Txn must be used by one goroutine and committed once.
func (s *Store) Txn(ctx context.Context) *Txn {
	t := &txn{s: s, ctx: ctx, keys: keyMapper{dir: s.ns, end: rangeEnd(s.ns), err: s.bad}}
	return &Txn{Txn: t}
}

// Guard makes the transaction depend on guards. If what they stand for was lost, neither branch is
// applied, and Commit returns an error that matches [ErrGuard] and the error of the owner. Guard
// must be called before If, Then and Else, which return the interface of client/v3. Commit of a Txn
// that [Store.Txn] did not return reports [ErrInvalid] if Guard was called.
func (t *Txn) Guard(g ...Guarded) *Txn {
	inner, ok := t.Txn.(*txn)
	if !ok {
		s := &Store{core: &core{}, bad: fmt.Errorf("%w: only a transaction of Store.Txn can be guarded", errs.Invalid)}
		return s.Txn(nil) //nolint:staticcheck // never sent
	}
	var o options
	WithGuard(g...).put(&o)
	inner.guards = append(inner.guards, o.guards...)
	inner.bad = append(inner.bad, o.complaints...)
	return t
}

// With applies options to the transaction. Only [WithGuard] is supported; with any other option
// Commit returns [ErrInvalid]. Like [Txn.Guard], With must be called before If, Then and Else.
func (t *Txn) With(o ...WriteOption) *Txn {
	inner, ok := t.Txn.(*txn)
	if !ok {
		return t.Guard() // returns the error for it
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

// txn collects the parts of a transaction.
type txn struct {
	s    *Store
	ctx  context.Context //nolint:containedctx // passed at the start, used by Commit
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

// If adds comparisons. It may be called once, and first.
func (t *txn) If(cs ...clientv3.Cmp) clientv3.Txn {
	if t.hasIf || t.hasThen || t.hasE {
		t.complain("If comes once, and first")
	}
	t.hasIf = true
	t.cmps = append(t.cmps, cs...)
	return t
}

// Then adds the operations for the case that the comparisons hold. It may be called once, before
// Else.
func (t *txn) Then(ops ...clientv3.Op) clientv3.Txn {
	if t.hasThen || t.hasE {
		t.complain("Then comes once, and before Else")
	}
	t.hasThen = true
	t.then = append(t.then, ops...)
	return t
}

// Else adds the operations for the case that they do not hold. It may be called once.
func (t *txn) Else(ops ...clientv3.Op) clientv3.Txn {
	if t.hasE {
		t.complain("Else comes once")
	}
	t.hasE = true
	t.orElse = append(t.orElse, ops...)
	return t
}

// Commit validates the transaction and sends it.
func (t *txn) Commit() (resp *clientv3.TxnResponse, err error) {
	ctx, running := t.s.observe(t.ctx, "txn")
	defer func() { running.End(err, (*pb.TxnResponse)(resp).GetHeader().GetRevision()) }()
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
	resp, err = retry.Do(ctx, t.s.engine, retry.Call{Pkg: "kv", Op: "txn", Read: !writes}, func(ctx context.Context, _ bool) (*clientv3.TxnResponse, error) {
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

// build validates the transaction and returns it as one operation with absolute keys.
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
	// If the guards hold, the transaction runs. Otherwise the Else branch finds out which do not.
	var all []clientv3.Cmp
	var which []clientv3.Op
	for _, g := range t.guards {
		all = append(all, g.compares...)
		which = append(which, clientv3.OpTxn(g.compares, nil, nil))
	}
	return clientv3.OpTxn(all, []clientv3.Op{op}, which), c.writes, nil
}

// guardOps returns how many operations of the limit the guards use.
func (t *txn) guardOps() int {
	n := len(t.guards)
	for _, g := range t.guards {
		n += len(g.compares)
	}
	return n
}

// unwrap returns the response to the transaction from the response to the guarded one.
func (t *txn) unwrap(resp *clientv3.TxnResponse) (*clientv3.TxnResponse, error) {
	if resp.Succeeded {
		inner := resp.Responses[0].GetResponseTxn()
		inner.Header = resp.Header
		return (*clientv3.TxnResponse)(inner), nil
	}
	return nil, lostGuards(t.guards, resp.Responses)
}
