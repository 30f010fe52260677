package kv

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// List yields every entry below the dir, in key order, at one revision; see [Store.List]. A value
// that cannot be decoded ends the listing with [ErrDecode], unless the function of [WithBadEntry]
// skips it.
func (t Typed[T]) List(ctx context.Context, o ...ListOption) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		for e, err := range t.store().List(ctx, "", o...) {
			if err != nil {
				yield(Entry[T]{}, err)
				return
			}
			d, skip, err := t.decodeListed("list", e)
			if skip {
				continue
			}
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// Page returns up to limit entries from where c ends, in one RPC; see [Store.Page]. A value that
// cannot be decoded makes it return [ErrDecode], unless the function of [WithBadEntry] skips it.
func (t Typed[T]) Page(ctx context.Context, limit int, c Cursor) (Page[T], error) {
	p, err := t.store().Page(ctx, "", limit, c)
	if err != nil {
		return Page[T]{}, err
	}
	out := Page[T]{Revision: p.Revision, Total: p.Total, Cursor: p.Cursor, Entries: make([]Entry[T], 0, len(p.Entries))}
	for _, e := range p.Entries {
		d, skip, err := t.decodeListed("page", e)
		if err != nil {
			return Page[T]{}, err
		}
		if !skip {
			out.Entries = append(out.Entries, d)
		}
	}
	return out, nil
}

// decodeListed decodes one entry of a listing. It calls the function of WithBadEntry if that fails.
func (t Typed[T]) decodeListed(op string, e Entry[[]byte]) (d Entry[T], skip bool, err error) {
	d, err = t.decode(op, e)
	if err == nil || t.onBadEntry == nil {
		return d, false, err
	}
	if err = t.onBadEntry(e.Key, e.ModRevision, err); err != nil {
		if _, ours := errors.AsType[*errs.Error](err); !ours {
			err = t.store().opError(op, e.Key, err)
		}
		return d, false, err
	}
	return d, true, nil
}

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
	case s.err != nil:
		err = s.err
	case kv == nil:
		err = fmt.Errorf("%w: no key", errs.Invalid)
	case !below || key == "":
		err = fmt.Errorf("%w: key %s is not below %s", errs.Invalid, errs.Quote(string(kv.GetKey())), errs.Quote(t.dir))
	}
	if err != nil {
		return Entry[T]{}, s.opError("decode", "", err)
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
		op.err = errs.Cause(err)
	}
	return op
}

// OpDelete returns a delete for a [Store.Batch]; see [Typed.OpPut].
func (t Typed[T]) OpDelete(key string, o ...DeleteOption) Op { return t.op(OpDelete(key, o...), key) }

func (t Typed[T]) op(op Op, key string) Op {
	op.store = t.store()
	if t.onWrite != nil {
		op.onWrite = func(ctx context.Context, rev int64) { t.onWrite(ctx, key, rev) }
	}
	return op
}

// decodeMany decodes entries, except those that the function of WithBadEntry skips.
func (t Typed[T]) decodeMany(op string, entries map[string]Entry[[]byte]) (map[string]Entry[T], error) {
	out := make(map[string]Entry[T], len(entries))
	for key, e := range entries {
		d, skip, err := t.decodeListed(op, e)
		if err != nil {
			return nil, err
		}
		if !skip {
			out[key] = d
		}
	}
	return out, nil
}
