package raw

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// txn collects a transaction, since each attempt at it has a context of its own. It is safe for concurrent use, as
// client/v3's is.
type txn struct {
	kv  *kv
	ctx context.Context //nolint:containedctx // the interface wants it

	mu        sync.Mutex
	form      clientv3.Txn // is never committed: it panics where client/v3 does
	compares  []clientv3.Cmp
	then      []clientv3.Op
	otherwise []clientv3.Op
}

// If takes the comparisons, once and first.
func (t *txn) If(cs ...clientv3.Cmp) clientv3.Txn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.form.If(cs...)
	for i := range cs {
		t.compares = append(t.compares, cs[i].Clone())
	}
	return t
}

// Then takes what is done where the comparisons hold, once and before Else.
func (t *txn) Then(ops ...clientv3.Op) clientv3.Txn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.form.Then(ops...)
	t.then = append(t.then, ops...)
	return t
}

// Else takes what is done where they do not, once.
func (t *txn) Else(ops ...clientv3.Op) clientv3.Txn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.form.Else(ops...)
	t.otherwise = append(t.otherwise, ops...)
	return t
}

// Commit sends the transaction.
func (t *txn) Commit() (*clientv3.TxnResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	call := retry.Call{Pkg: "raw", Op: "txn", Read: allRead(t.then) && allRead(t.otherwise), Raw: true}
	return retry.Do(t.ctx, t.kv.engine, call, func(ctx context.Context, _ bool) (*clientv3.TxnResponse, error) {
		return t.kv.KV.Txn(ctx).If(t.compares...).Then(t.then...).Else(t.otherwise...).Commit()
	})
}
