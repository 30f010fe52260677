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

// Coalesce returns a KV that lets calls which many goroutines make at once share transactions. Up to four calls of a
// kind go to next as they are; those made while these are under way wait, and leave together as one transaction as soon
// as any of them is back. Nothing waits for company: a caller who is alone is sent at once, by its own goroutine and with
// its own context. A hundred goroutines have several times the throughput that they have without.
//
// # What is shared
//
// Gets of one key with no other options than WithKeysOnly, WithCountOnly and WithSerializable; puts; and deletes of one
// key; also as [clientv3.Op] given to Do. Linearizable gets, serializable gets, puts and deletes are four kinds that never
// share a transaction: a get does not wait for the disk, and a delete works when the database is full. Everything
// else goes through as it is: ranges, revisions, transactions, Compact, GetStream, what is over 64 KiB, and calls whose
// context has outgoing metadata, such as WithRequireLeader (which is not needed over etcdkit.Harden).
//
// A transaction holds at most 128 operations, or what the server is found to take, and 512 KiB. Equal gets are one
// operation in it. etcd takes one write of a key in a transaction: further ones leave with later transactions, in the
// order in which they came.
//
// # What a call gets
//
// Its own result, in a response of its own, with a header like that of the call alone. The order of calls that overlap in
// time is as open as it is without: each takes effect at one moment between its beginning and its end, that of the
// transaction it is in, so gets stay linearizable.
//
// Its own error. A transaction that etcd refuses, because one put has a lease that is gone or one key is forbidden, was not
// applied: each of its calls is then sent by itself. So is each get of a transaction that fails in any way, but for a
// server that asks to be spared. When it is open whether a transaction of writes was applied, each of its calls has
// that error; none is sent again.
//
// Its own context. When that ends, the call returns at once. A call that still waited is not sent any more: the error of
// a write then is `kv: put "k": context canceled`, where that of one that was under way, and may yet be applied, is the
// context's alone. The transaction itself goes on for the others, and is given up with the last of them. It has no
// deadline and carries nothing of its callers' contexts, neither values nor spans.
//
// # The price
//
// All writes of a transaction have one revision, and watchers get them as one change. They share one fate: a lost
// answer leaves them all in doubt. Many writes of one and the same key at once are slower than without, since they
// leave a few at a time. That is why this is not the default.
//
// A request that hangs, on a frozen member for one, holds the others up by a tenth of a second at most; then they leave
// without waiting for it.
//
// # Lifetime
//
// A transaction is sent by a goroutine that ends with it; there is none while nothing is under way, and nothing to close.
// A panic of next is passed on to every call that it concerns. A nil next, or a nil context, is refused with
// [ErrInvalid]. It works over and under [Namespace]. In the KV field of a client, it serves every [Store] over it, too.
func Coalesce(next clientv3.KV) clientv3.KV {
	if next == nil {
		return &namespacedKV{keyMapper: keyMapper{err: fmt.Errorf("%w: no KV whose calls could share transactions", errs.Invalid)}}
	}
	k := newCoalesced(next)
	if b, ok := next.(wire.Based); ok {
		k.base = newCoalesced(b.Base())
	}
	return k
}

func newCoalesced(next clientv3.KV) *coalesced {
	k := &coalesced{KV: next}
	for kind := range k.lanes {
		k.lanes[kind] = newLane(next, kind)
	}
	k.base = k
	return k
}

// coalesced is a KV whose calls share transactions. What it does not declare passes through.
type coalesced struct {
	clientv3.KV

	lanes [kinds]*lane
	base  clientv3.KV
}

// Base is the same over what does not retry by itself.
func (k *coalesced) Base() clientv3.KV { return k.base }

// RetryEngine is that of next, so that a Store over it shares its budget.
func (k *coalesced) RetryEngine() *retry.Engine { return engineOf(k.KV) }

// The kinds of calls that share transactions with their like.
const (
	linearizable = iota
	serializable
	putting
	deleting
	kinds
)

// Get retrieves keys.
func (k *coalesced) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r, err := k.do(ctx, clientv3.OpGet(key, opts...), key)
	return r.Get(), err
}

// Put writes a key.
func (k *coalesced) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	r, err := k.do(ctx, clientv3.OpPut(key, val, opts...), key)
	return r.Put(), err
}

// Delete deletes keys.
func (k *coalesced) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	r, err := k.do(ctx, clientv3.OpDelete(key, opts...), key)
	return r.Del(), err
}

// Do makes one operation.
func (k *coalesced) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	return k.do(ctx, op, "")
}

// do makes one operation, shared if it can be. key is that of op if op is made of strings, which nobody changes.
func (k *coalesced) do(ctx context.Context, op clientv3.Op, key string) (clientv3.OpResponse, error) {
	if ctx == nil {
		return clientv3.OpResponse{}, fail(verb(op), string(op.KeyBytes()), fmt.Errorf("%w: nil context", errs.Invalid))
	}
	kind, ok := kindOf(op)
	if !ok || ctx.Err() != nil {
		return k.KV.Do(ctx, op)
	}
	if md, _ := metadata.FromOutgoingContext(ctx); len(md) > 0 {
		return k.KV.Do(ctx, op)
	}
	return k.lanes[kind].do(ctx, op, key)
}

// kindOf tells the kind of an operation that can be shared.
func kindOf(op clientv3.Op) (kind int, ok bool) {
	switch {
	case len(op.KeyBytes()) == 0, len(op.RangeBytes()) > 0, len(op.KeyBytes())+len(op.ValueBytes()) > soloBytes:
		return 0, false
	case op.IsPut():
		return putting, true
	case op.IsDelete():
		return deleting, true
	case !op.IsGet(), op.Rev() != 0, op.Limit() != 0, op.IsSortSet(),
		op.MinModRev() != 0, op.MaxModRev() != 0, op.MinCreateRev() != 0, op.MaxCreateRev() != 0:
		return 0, false
	case op.IsSerializable():
		return serializable, true
	}
	return linearizable, true
}

// own makes op independent of buffers that its caller may use again while a transaction that holds it is under way.
func own(op clientv3.Op) clientv3.Op {
	op.WithKeyBytes(bytes.Clone(op.KeyBytes()))
	op.WithValueBytes(bytes.Clone(op.ValueBytes()))
	return op
}
