package kv

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
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
	t := &txn{s: s, ctx: ctx, keys: keyMapper{dir: s.ns, end: rangeEnd(s.ns), err: s.err}}
	return &Txn{Txn: t}
}

// Guard makes the transaction depend on guards. If what they stand for was lost, neither branch is
// applied, and Commit returns an error that matches [ErrGuard] and the error of the owner. Guard
// must be called before If, Then and Else, which return the interface of client/v3. Commit of a Txn
// that [Store.Txn] did not return reports [ErrInvalid] if Guard was called.
func (t *Txn) Guard(g ...Guarded) *Txn {
	inner, ok := t.Txn.(*txn)
	if !ok {
		s := &Store{core: &core{}, err: fmt.Errorf("%w: only a transaction of Store.Txn can be guarded", errs.Invalid)}
		return s.Txn(nil) //nolint:staticcheck // never sent
	}
	var o options
	WithGuard(g...).put(&o)
	inner.guards = append(inner.guards, o.guards...)
	inner.errs = append(inner.errs, o.errs...)
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
		all.addError("WithOnce is not supported by Txn")
	}
	inner.guards = append(inner.guards, all.guards...)
	inner.errs = append(inner.errs, all.errs...)
	return t
}

// txn collects the parts of a transaction.
type txn struct {
	s    *Store
	ctx  context.Context //nolint:containedctx // passed at the start, used by Commit
	keys keyMapper

	guards                  []Guard
	cmps                    []clientv3.Cmp
	then, orElse            []clientv3.Op
	hasIf, hasThen, hasElse bool
	committed               bool
	errs                    []error
}

func (t *txn) addError(text string) {
	t.errs = append(t.errs, fmt.Errorf("%w: %s", errs.Invalid, text))
}

// If adds comparisons. It may be called once, and first.
func (t *txn) If(cs ...clientv3.Cmp) clientv3.Txn {
	if t.hasIf || t.hasThen || t.hasElse {
		t.addError("If may be called once, and first")
	}
	t.hasIf = true
	t.cmps = append(t.cmps, cs...)
	return t
}

// Then adds the operations for the case that the comparisons hold. It may be called once, before
// Else.
func (t *txn) Then(ops ...clientv3.Op) clientv3.Txn {
	if t.hasThen || t.hasElse {
		t.addError("Then may be called once, and before Else")
	}
	t.hasThen = true
	t.then = append(t.then, ops...)
	return t
}

// Else adds the operations for the case that they do not hold. It may be called once.
func (t *txn) Else(ops ...clientv3.Op) clientv3.Txn {
	if t.hasElse {
		t.addError("Else may be called once")
	}
	t.hasElse = true
	t.orElse = append(t.orElse, ops...)
	return t
}

// Commit validates the transaction and sends it.
func (t *txn) Commit() (resp *clientv3.TxnResponse, err error) {
	ctx, running := t.s.observe(t.ctx, "txn")
	defer func() { running.End(err, (*pb.TxnResponse)(resp).GetHeader().GetRevision()) }()
	op, writes, err := t.build()
	if err != nil {
		return nil, opError("txn", "", err)
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
			return nil, opError("txn", "", err)
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
		t.addError("already committed")
	}
	if t.keys.err == nil && len(t.then)+len(t.orElse) == 0 {
		t.addError("no operations")
	}
	c, then, orElse := txnChecker{Store: t.s}, splitGets(t.then), splitGets(t.orElse)
	if t.s.err == nil {
		branchErrs := c.checkBranch(t.cmps, then, orElse, t.s.limits.TxnOps-t.guardOps())
		t.errs = append(append(t.errs, branchErrs...), t.s.limits.request(c.bytes+guardBytes(t.guards)))
	}
	if err := joinErrors(t.errs); err != nil {
		return op, false, err
	}
	op, err = t.keys.absoluteTxn(clientv3.OpTxn(t.cmps, then, orElse))
	if err != nil || len(t.guards) == 0 {
		return op, c.writes, err
	}
	// If the guards hold, the transaction runs. Otherwise the Else branch finds out which do not.
	var cmps []clientv3.Cmp
	var reads []clientv3.Op
	for _, g := range t.guards {
		cmps = append(cmps, g.compares...)
		reads = append(reads, clientv3.OpTxn(g.compares, nil, nil))
	}
	return clientv3.OpTxn(cmps, []clientv3.Op{op}, reads), c.writes, nil
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
	return nil, guardError(t.guards, resp.Responses)
}

// rangeEnd returns the first key after the namespace.
func rangeEnd(ns string) []byte { return []byte(keyspace.End(ns)) }

// txnChecker checks a transaction against the limits, in the same way as etcd: the maximum of
// comparisons and branches counts, and the remainder is available to each nested transaction.
type txnChecker struct {
	*Store

	writes bool
	bytes  int
}

// checkBranch returns what is wrong with a transaction of at most room operations, and with its
// nested ones.
func (c *txnChecker) checkBranch(cmps []clientv3.Cmp, then, orElse []clientv3.Op, room int) (all []error) {
	n := max(len(cmps), len(then), len(orElse))
	if err := c.limits.ops(n, room); err != nil {
		all = append(all, err)
	}
	for i := range cmps {
		all = append(all, c.checkRelativeKey(cmps[i].KeyBytes())...)
		c.bytes += len(cmps[i].KeyBytes()) + len(cmps[i].ValueBytes()) + opOverhead
	}
	for _, ops := range [][]clientv3.Op{then, orElse} {
		if err := duplicateKeyError(ops); err != nil {
			all = append(all, err)
		}
		for _, op := range ops {
			all = append(all, c.checkOp(op, room-n)...)
		}
	}
	return all
}

// checkOp returns what is wrong with one operation.
func (c *txnChecker) checkOp(op clientv3.Op, room int) (all []error) {
	if op.IsTxn() {
		cmps, then, orElse := op.Txn()
		return c.checkBranch(cmps, then, orElse, room)
	}
	key := string(op.KeyBytes())
	c.bytes += len(key) + len(op.RangeBytes()) + len(op.ValueBytes()) + opOverhead
	if op.IsPut() || op.IsDelete() {
		c.writes = true
		if c.reachesHidden(opRange(op)) {
			all = append(all, errHidden)
		}
	}
	if op.Rev() < 0 || op.Limit() < 0 {
		all = append(all, fmt.Errorf("%w: %s of key %s: negative revision or limit", errs.Invalid, verb(op), errs.Quote(key)))
	}
	return append(all, c.checkRelativeKey(op.KeyBytes())...)
}

// reachesHidden reports whether a relative range contains keys of the library, either those of this
// store's namespace or those of the store that New returned.
func (c *txnChecker) reachesHidden(r keyspace.Range) bool {
	abs := keyspace.Range{From: c.ns + r.From, To: c.ns + r.To}
	if r.To == keyspace.ToEnd {
		abs.To = keyspace.End(c.ns)
	}
	return !r.Intersect(keyspace.Under(keyspace.Hidden)).Empty() || !abs.Intersect(keyspace.Under(c.hiddenDir)).Empty()
}

// checkRelativeKey returns what is wrong with a key. Empty keys are refused later, when keys are
// mapped.
func (c *txnChecker) checkRelativeKey(rel []byte) []error {
	if len(rel) > 0 {
		if err := c.checkKey(string(rel)); err != nil {
			return []error{err}
		}
	}
	return nil
}

// duplicateKeyError returns an error if a branch puts a key twice, or puts and deletes it. etcd
// would refuse it only after receiving the whole request. Writes in nested transactions are left
// for etcd to check.
func duplicateKeyError(ops []clientv3.Op) error {
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
			if opRange(op).Contains(key) {
				return fmt.Errorf("%w: key %s is both put and deleted", errs.Invalid, errs.Quote(key))
			}
		}
	}
	return nil
}

// opRange returns the range of an operation.
func opRange(op clientv3.Op) keyspace.Range {
	r := keyspace.One(string(op.KeyBytes()))
	if end := op.RangeBytes(); len(end) > 0 {
		r.To = string(end)
	}
	return r
}
