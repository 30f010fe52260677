package kv

import (
	"bytes"
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Coalesce returns a KV that combines concurrent calls into shared transactions. It sends up to
// four calls of a kind to next unchanged. Calls made while these are in flight wait, and are sent
// together as one transaction as soon as one of the calls in flight returns. A call made alone is
// sent immediately, on the caller's goroutine and with its context. With a hundred goroutines,
// throughput is several times higher than without Coalesce.
//
// # What is shared
//
// The following calls are shared: gets of one key with no options other than WithKeysOnly,
// WithCountOnly and WithSerializable; puts; deletes of one key; and the same as a [clientv3.Op]
// given to Do. Linearizable gets, serializable gets, puts and deletes are four kinds that never
// share a transaction: a get does not wait for the disk, and a delete works when the database is
// full. Everything else passes through unchanged: ranges, gets at a revision, transactions,
// Compact, GetStream, operations larger than 64 KiB, and calls whose context has outgoing metadata,
// such as that of WithRequireLeader (which is not needed over etcdkit.Harden).
//
// A transaction holds at most 512 KiB and 128 operations, or fewer if the server turns out to
// accept fewer. Equal gets count as one operation. etcd accepts one write of a key in a
// transaction: further writes of the key are sent in later transactions, in the order of the calls.
//
// # What a call gets
//
// Each call gets its own result, in a response of its own, with a header like that of a call made
// alone. Calls that overlap in time may take effect in any order, as they may without Coalesce.
// Each takes effect between its start and its end, with its transaction, so gets remain
// linearizable.
//
// Each call gets its own error. etcd refuses a whole transaction if, for example, the lease of one
// put has expired or one key is forbidden. Such a transaction was not applied, and each of its
// calls is then sent separately. Gets are also sent separately if their transaction fails in any
// other way, unless the server is overloaded. If it is unknown whether a transaction of writes was
// applied, each of its calls returns that error, and none is sent again.
//
// Each call keeps its own context, and returns as soon as the context ends. A waiting call is then
// not sent. The error of a write that was not sent begins with the operation and the key, as in
//
//	kv: put "k": context canceled
//
// The error of a write in flight, which may still be applied, is only the context's. The
// transaction continues for its other calls, and is canceled when the last of them returns. It has
// no deadline, and carries neither values nor spans of its callers' contexts.
//
// # Cost
//
// All writes of a transaction have one revision, and watchers receive them as one change. If the
// response to a transaction is lost, the outcome of all its writes is unknown. Many concurrent
// writes of the same key are slower than without Coalesce, because each transaction holds only one
// of them. For these reasons Coalesce is not the default.
//
// A request that hangs, for example on a frozen member, delays other calls by at most 100 ms; then
// they are sent without waiting for it.
//
// # Lifetime
//
// Each transaction is sent on a goroutine that ends with it. Nothing runs while no call is in
// flight, and there is nothing to close. A panic of next is passed on to every call in the
// transaction. If next is nil, every call returns [ErrInvalid]. Coalesce works over and under
// [Namespace]. If the returned KV is the KV field of a client, every [Store]
// over that client uses it.
func Coalesce(next clientv3.KV) clientv3.KV {
	if next == nil {
		return &namespacedKV{keyMapper: keyMapper{err: fmt.Errorf("%w: no KV to send the transactions with", errs.Invalid)}}
	}
	k := newCoalescingKV(next)
	if b, ok := next.(wire.Based); ok {
		k.base = newCoalescingKV(b.Base())
	}
	return k
}

func newCoalescingKV(next clientv3.KV) *coalescingKV {
	k := &coalescingKV{KV: next}
	for kind := range k.batchers {
		k.batchers[kind] = newBatcher(next, kind)
	}
	k.base = k
	return k
}

// coalescingKV is a KV whose calls share transactions. Methods that it does not define pass
// through.
type coalescingKV struct {
	clientv3.KV

	batchers [kindCount]*batcher
	base     clientv3.KV
}

// Base returns the same KV over a KV that does not retry.
func (k *coalescingKV) Base() clientv3.KV { return k.base }

// RetryEngine returns the engine of next, so that a Store over it shares the retry budget.
func (k *coalescingKV) RetryEngine() *retry.Engine { return engineOf(k.KV) }

// The kinds of calls. Only calls of one kind share a transaction.
const (
	linearizable = iota
	serializable
	puts
	deletes
	kindCount
)

// Get implements clientv3.KV.
func (k *coalescingKV) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r, err := k.do(ctx, clientv3.OpGet(key, opts...), key)
	return r.Get(), err
}

// Put implements clientv3.KV.
func (k *coalescingKV) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	r, err := k.do(ctx, clientv3.OpPut(key, val, opts...), key)
	return r.Put(), err
}

// Delete implements clientv3.KV.
func (k *coalescingKV) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	r, err := k.do(ctx, clientv3.OpDelete(key, opts...), key)
	return r.Del(), err
}

// Do implements clientv3.KV.
func (k *coalescingKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	return k.do(ctx, op, "")
}

// do sends one operation, in a shared transaction if possible. key is "" if the caller may have
// passed key and value as byte slices, which it may reuse. Otherwise it is the key of op.
func (k *coalescingKV) do(ctx context.Context, op clientv3.Op, key string) (clientv3.OpResponse, error) {
	kind, ok := kindOf(op)
	if !ok || ctx.Err() != nil {
		return k.KV.Do(ctx, op)
	}
	if md, _ := metadata.FromOutgoingContext(ctx); len(md) > 0 {
		return k.KV.Do(ctx, op)
	}
	return k.batchers[kind].do(ctx, op, key)
}

// kindOf returns the kind of an operation. ok is false if the operation cannot be shared.
func kindOf(op clientv3.Op) (kind int, ok bool) {
	switch {
	case len(op.KeyBytes()) == 0, len(op.RangeBytes()) > 0, len(op.KeyBytes())+len(op.ValueBytes()) > maxSharedOpBytes:
		return 0, false
	case op.IsPut():
		return puts, true
	case op.IsDelete():
		return deletes, true
	case !op.IsGet(), op.Rev() != 0, op.Limit() != 0, op.IsSortSet(),
		op.MinModRev() != 0, op.MaxModRev() != 0, op.MinCreateRev() != 0, op.MaxCreateRev() != 0:
		return 0, false
	case op.IsSerializable():
		return serializable, true
	}
	return linearizable, true
}

// cloneOp returns a copy of op that does not share the caller's buffers. The caller may reuse these
// while a transaction that holds the operation is in flight.
func cloneOp(op clientv3.Op) clientv3.Op {
	op.WithKeyBytes(bytes.Clone(op.KeyBytes()))
	op.WithValueBytes(bytes.Clone(op.ValueBytes()))
	return op
}
