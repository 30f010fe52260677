package kv

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Exists reports whether key exists. It costs one RPC, which does not fetch the value.
func (t Typed[T]) Exists(ctx context.Context, key string) (bool, error) {
	return t.store().Exists(ctx, key)
}

// Count returns the number of keys below the dir. It costs one RPC, which fetches no keys.
func (t Typed[T]) Count(ctx context.Context) (int64, error) { return t.store().Count(ctx, "") }

// Keys yields the keys below the dir; see [Store.Keys].
func (t Typed[T]) Keys(ctx context.Context, o ...ListOption) iter.Seq2[string, error] {
	return t.store().Keys(ctx, "", o...)
}

// GetMany returns the entries of keys, all at the same revision rev; see [Store.GetMany]. Keys that
// do not exist are missing from the map. A value that cannot be decoded makes it return
// [ErrDecode], unless the function of [WithBadEntry] skips it.
func (t Typed[T]) GetMany(ctx context.Context, keys ...string) (entries map[string]Entry[T], rev int64, err error) {
	raw, rev, err := t.store().GetMany(ctx, keys...)
	if err != nil {
		return nil, 0, err
	}
	if entries, err = t.decodeMany("get many", raw); err != nil {
		return nil, 0, err
	}
	return entries, rev, nil
}

// Decode returns the entry for a key-value pair of etcd, such as one in the response to a
// [Store.Txn]. The key of kv is relative to the store that t was created with. If it is not below
// the dir of t, the error is [ErrInvalid]. Decode sends nothing.
func (t Typed[T]) Decode(kv *mvccpb.KeyValue) (Entry[T], error) {
	s := t.store()
	var err error
	key, below := strings.CutPrefix(string(kv.GetKey()), t.dir)
	switch {
	case s.bad != nil:
		err = s.bad
	case kv == nil:
		err = fmt.Errorf("%w: no key", errs.Invalid)
	case !below || key == "":
		err = fmt.Errorf("%w: key %s is not below %s", errs.Invalid, errs.Quote(string(kv.GetKey())), errs.Quote(t.dir))
	}
	if err != nil {
		return Entry[T]{}, s.fail("decode", "", err)
	}
	e := entryOf(kv, 0)
	e.Key = key
	return t.decode("decode", e)
}

// OpPut returns a put for a [Store.Batch] on the store that t was created with, or on one whose
// namespace contains the key. If the value cannot be encoded, Batch returns [ErrInvalid].
func (t Typed[T]) OpPut(key string, v T, o ...PutOption) Op {
	b, err := t.encode("put", key, v)
	op := t.op(OpPut(key, b, o...), key)
	if err != nil {
		op.bad = errs.Cause(err)
	}
	return op
}

// OpDelete returns a delete for a [Store.Batch]; see [Typed.OpPut].
func (t Typed[T]) OpDelete(key string, o ...DeleteOption) Op { return t.op(OpDelete(key, o...), key) }

func (t Typed[T]) op(op Op, key string) Op {
	op.typed = t.store()
	if t.wrote != nil {
		op.wrote = func(ctx context.Context, rev int64) { t.wrote(ctx, key, rev) }
	}
	return op
}
