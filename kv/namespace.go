package kv

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Namespace returns a KV that is restricted to the keys below dir. It adds dir to every key that it
// sends, and removes it from every key that it receives.
//
// No request reaches keys outside the namespace. "app" means "app/", so "app2/x" is outside. A
// range is cut off at the end of the namespace, also with WithFromKey, and with WithPrefix on the
// empty key. Comparisons and the operations of transactions, including nested ones, are mapped in
// the same way. An empty key, a range that ends before it begins, and the zero Op return
// [ErrInvalid], and nothing is sent; for a transaction, Commit returns the error. The error for an
// empty key also matches rpctypes.ErrEmptyKey, as in client/v3. A response with a key from outside
// the namespace is an error. The library's own keys below dir are ordinary keys here. Compact has
// no keys and passes through.
//
// dir need not end in a slash. If dir is "", the namespace is the whole key space. If dir is
// invalid, every call returns [ErrInvalid]. The Ops and Cmps passed in are not modified. next must
// return a new response from each call, as client/v3 does, because keys are trimmed in place.
func Namespace(next clientv3.KV, dir string) clientv3.KV {
	m := newKeyMapper(dir)
	if m.err == nil && next == nil {
		m.err = fmt.Errorf("%w: no KV to put into the namespace", errs.Invalid)
	}
	return &namespacedKV{KV: next, keyMapper: m}
}

// namespacedKV is the KV of a namespace. It is immutable.
type namespacedKV struct {
	clientv3.KV
	keyMapper
}

// Base returns the same namespace over a KV that does not retry, so that callers that retry do not
// retry twice.
func (n *namespacedKV) Base() clientv3.KV {
	if b, ok := n.KV.(wire.Based); ok {
		return &namespacedKV{KV: b.Base(), keyMapper: n.keyMapper}
	}
	return n
}

// RetryEngine returns the engine of next, so that a Store over the namespace shares its budget.
func (n *namespacedKV) RetryEngine() *retry.Engine { return engineOf(n.KV) }

// engineOf returns the retry engine of a KV, or nil if it has none.
func engineOf(kv clientv3.KV) *retry.Engine {
	if s, ok := kv.(retry.EngineProvider); ok {
		return s.RetryEngine()
	}
	return nil
}

// Get gets keys below the namespace.
func (n *namespacedKV) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := n.Do(ctx, clientv3.OpGet(key, opts...))
	return resp.Get(), err
}

// Put writes a key below the namespace.
func (n *namespacedKV) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	resp, err := n.Do(ctx, clientv3.OpPut(key, val, opts...))
	return resp.Put(), err
}

// Delete deletes keys below the namespace.
func (n *namespacedKV) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	resp, err := n.Do(ctx, clientv3.OpDelete(key, opts...))
	return resp.Del(), err
}

// Do sends one operation on keys below the namespace.
func (n *namespacedKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	abs, err := n.absoluteOp(op)
	if err != nil {
		return clientv3.OpResponse{}, fail(verb(op), string(op.KeyBytes()), err)
	}
	resp, err := n.KV.Do(ctx, abs)
	if err != nil {
		return clientv3.OpResponse{}, err
	}
	switch {
	case op.IsGet():
		err = n.trimGet(resp.Get())
	case op.IsPut():
		err = n.trimPut(resp.Put())
	case op.IsDelete():
		err = n.trimDelete(resp.Del())
	default:
		err = n.trimTxn(resp.Txn())
	}
	if err != nil {
		return clientv3.OpResponse{}, badResponse(verb(op), string(op.KeyBytes()), err)
	}
	return resp, nil
}

// Txn returns a transaction below the namespace. If an argument cannot be mapped, Commit returns
// the error and nothing is sent.
func (n *namespacedKV) Txn(ctx context.Context) clientv3.Txn {
	t := &namespacedTxn{keyMapper: n.keyMapper}
	if n.err != nil {
		t.invalid = fail("txn", "", n.err)
		return t
	}
	t.Txn = n.KV.Txn(ctx)
	return t
}

// Compact passes through, unless the namespace is invalid.
func (n *namespacedKV) Compact(ctx context.Context, rev int64, opts ...clientv3.CompactOption) (*clientv3.CompactResponse, error) {
	if n.err != nil {
		return nil, fail("compact", "", n.err)
	}
	return n.KV.Compact(ctx, rev, opts...)
}

// namespacedTxn is a transaction below a namespace.
type namespacedTxn struct {
	clientv3.Txn
	keyMapper

	invalid error // the error of the first invalid argument, which Commit returns
}

// If adds comparisons.
func (t *namespacedTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	if t.invalid != nil {
		return t
	}
	abs, err := t.absoluteCmps(cs)
	if err != nil {
		t.invalid = fail("txn", "", err)
		return t
	}
	t.Txn = t.Txn.If(abs...)
	return t
}

// Then adds the operations for the case that the comparisons hold.
func (t *namespacedTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	if t.invalid != nil {
		return t
	}
	abs, err := t.absoluteOps(ops)
	if err != nil {
		t.invalid = fail("txn", "", err)
		return t
	}
	t.Txn = t.Txn.Then(abs...)
	return t
}

// Else adds the operations for the case that they do not hold.
func (t *namespacedTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	if t.invalid != nil {
		return t
	}
	abs, err := t.absoluteOps(ops)
	if err != nil {
		t.invalid = fail("txn", "", err)
		return t
	}
	t.Txn = t.Txn.Else(abs...)
	return t
}

// Commit sends the transaction.
func (t *namespacedTxn) Commit() (*clientv3.TxnResponse, error) {
	if t.invalid != nil {
		return nil, t.invalid
	}
	resp, err := t.Txn.Commit()
	if err != nil {
		return nil, err
	}
	if err := t.trimTxn(resp); err != nil {
		return nil, badResponse("txn", "", err)
	}
	return resp, nil
}

// verb returns the name of an operation for error texts.
func verb(op clientv3.Op) string {
	switch {
	case op.IsGet():
		return "get"
	case op.IsPut():
		return "put"
	case op.IsDelete():
		return "delete"
	case op.IsTxn():
		return "txn"
	}
	return "do"
}
