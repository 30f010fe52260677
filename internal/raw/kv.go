package raw

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// kv is a KV that retries. What it does not declare passes through.
type kv struct {
	clientv3.KV

	engine *retry.Engine
}

var (
	_ wire.Based           = (*kv)(nil)
	_ retry.EngineProvider = (*kv)(nil)
)

// Base is the KV below.
func (k *kv) Base() clientv3.KV { return k.KV }

// RetryEngine is the engine whose budgets everything shares that retries over this client.
func (k *kv) RetryEngine() *retry.Engine { return k.engine }

// Get reads.
func (k *kv) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r, err := k.do(ctx, "get", clientv3.OpGet(key, opts...))
	return r.Get(), err
}

// Put writes.
func (k *kv) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	r, err := k.do(ctx, "put", clientv3.OpPut(key, val, opts...))
	return r.Put(), err
}

// Delete deletes.
func (k *kv) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	r, err := k.do(ctx, "delete", clientv3.OpDelete(key, opts...))
	return r.Del(), err
}

// Do carries out one operation.
func (k *kv) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	return k.do(ctx, "do", op)
}

func (k *kv) do(ctx context.Context, name string, op clientv3.Op) (clientv3.OpResponse, error) {
	call := retry.Call{Pkg: "raw", Op: name, Key: string(op.KeyBytes()), Read: reads(op), Raw: true}
	return retry.Do(ctx, k.engine, call, func(ctx context.Context, _ bool) (clientv3.OpResponse, error) {
		return k.KV.Do(ctx, op)
	})
}

// Compact drops history.
func (k *kv) Compact(ctx context.Context, rev int64, opts ...clientv3.CompactOption) (*clientv3.CompactResponse, error) {
	call := retry.Call{Pkg: "raw", Op: "compact", Raw: true}
	return retry.Do(ctx, k.engine, call, func(ctx context.Context, _ bool) (*clientv3.CompactResponse, error) {
		return k.KV.Compact(ctx, rev, opts...)
	})
}

// Txn begins a transaction. Nothing is sent before its Commit.
func (k *kv) Txn(ctx context.Context) clientv3.Txn {
	return &txn{kv: k, ctx: ctx, form: k.KV.Txn(ctx)}
}

// reads reports whether all that op does is read.
func reads(op clientv3.Op) bool {
	if !op.IsTxn() {
		return op.IsGet()
	}
	_, then, otherwise := op.Txn()
	return allRead(then) && allRead(otherwise)
}

func allRead(ops []clientv3.Op) bool {
	for _, op := range ops {
		if !reads(op) {
			return false
		}
	}
	return true
}
