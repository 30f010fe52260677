package decorate

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// txn collects the parts of a transaction, because each attempt has a context of its own. It is
// safe for concurrent use, as in client/v3.
type txn struct {
	kv  *kv
	ctx context.Context //nolint:containedctx // the interface of client/v3 requires it

	mu        sync.Mutex
	validator clientv3.Txn // never committed; it panics if client/v3 does
	compares  []clientv3.Cmp
	then      []clientv3.Op
	otherwise []clientv3.Op
}

// If sets the comparisons. It must be called first and only once.
func (t *txn) If(cs ...clientv3.Cmp) clientv3.Txn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.validator.If(cs...)
	for i := range cs {
		t.compares = append(t.compares, cs[i].Clone())
	}
	return t
}

// Then sets the operations for comparisons that hold. It must be called before Else and only once.
func (t *txn) Then(ops ...clientv3.Op) clientv3.Txn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.validator.Then(ops...)
	t.then = append(t.then, ops...)
	return t
}

// Else sets the operations for comparisons that do not hold. It must be called only once.
func (t *txn) Else(ops ...clientv3.Op) clientv3.Txn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.validator.Else(ops...)
	t.otherwise = append(t.otherwise, ops...)
	return t
}

// Commit sends the transaction.
func (t *txn) Commit() (*clientv3.TxnResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	call := retry.Call{Pkg: "raw", Op: "txn", Read: areReads(t.then) && areReads(t.otherwise), Raw: true}
	return retry.Do(t.ctx, t.kv.engine, call, func(ctx context.Context, _ bool) (*clientv3.TxnResponse, error) {
		return t.kv.KV.Txn(ctx).If(t.compares...).Then(t.then...).Else(t.otherwise...).Commit()
	})
}
