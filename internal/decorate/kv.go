package decorate

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// kv is a KV that retries. Methods that it does not declare are not retried.
type kv struct {
	clientv3.KV

	engine *retry.Engine
}

var (
	_ wire.Based           = (*kv)(nil)
	_ retry.EngineProvider = (*kv)(nil)
)

// Base returns the undecorated KV.
func (k *kv) Base() clientv3.KV { return k.KV }

// RetryEngine returns the engine, whose budgets everything that retries over this client shares.
func (k *kv) RetryEngine() *retry.Engine { return k.engine }

// Get reads keys.
func (k *kv) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r, err := k.do(ctx, "get", clientv3.OpGet(key, opts...))
	return r.Get(), err
}

// Put writes a key.
func (k *kv) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	r, err := k.do(ctx, "put", clientv3.OpPut(key, val, opts...))
	return r.Put(), err
}

// Delete deletes keys.
func (k *kv) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	r, err := k.do(ctx, "delete", clientv3.OpDelete(key, opts...))
	return r.Del(), err
}

// Do executes one operation.
func (k *kv) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	return k.do(ctx, "do", op)
}

func (k *kv) do(ctx context.Context, name string, op clientv3.Op) (clientv3.OpResponse, error) {
	call := retry.Call{Pkg: "raw", Op: name, Key: string(op.KeyBytes()), Read: isRead(op), Raw: true}
	return retry.Do(ctx, k.engine, call, func(ctx context.Context, _ bool) (clientv3.OpResponse, error) {
		return k.KV.Do(ctx, op)
	})
}

// Compact compacts the history.
func (k *kv) Compact(ctx context.Context, rev int64, opts ...clientv3.CompactOption) (*clientv3.CompactResponse, error) {
	call := retry.Call{Pkg: "raw", Op: "compact", Raw: true}
	return retry.Do(ctx, k.engine, call, func(ctx context.Context, _ bool) (*clientv3.CompactResponse, error) {
		return k.KV.Compact(ctx, rev, opts...)
	})
}

// Txn returns a transaction. Nothing is sent before its Commit.
func (k *kv) Txn(ctx context.Context) clientv3.Txn {
	return &txn{kv: k, ctx: ctx, validator: k.KV.Txn(ctx)}
}

// isRead reports whether op only reads.
func isRead(op clientv3.Op) bool {
	if !op.IsTxn() {
		return op.IsGet()
	}
	_, then, otherwise := op.Txn()
	return areReads(then) && areReads(otherwise)
}

func areReads(ops []clientv3.Op) bool {
	for _, op := range ops {
		if !isRead(op) {
			return false
		}
	}
	return true
}
