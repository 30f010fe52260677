package kv

import (
	"iter"
)

// TypedTx is a [Typed] within a transaction. It has the methods of [Tx], with values of type T. See
// [Typed.In].
type TypedTx[T any] struct {
	t  Typed[T]
	tx *Tx
}

// In returns the handle t within the transaction tx. Both must belong to the same store, or to
// stores derived from one another.
func (t Typed[T]) In(tx *Tx) TypedTx[T] { return TypedTx[T]{t: t, tx: tx} }

// Get returns the entry of key. The error matches [ErrNotFound] if the key does not exist, and
// [ErrDecode] if its value cannot be decoded. See [Tx.Get].
func (x TypedTx[T]) Get(key string) (Entry[T], error) {
	e, err := x.tx.get(x.t.store(), key)
	if err != nil {
		return Entry[T]{}, err
	}
	return x.t.decode("get", e)
}

// GetMany returns the entries of keys. Keys that do not exist are missing from the map. A value
// that cannot be decoded makes it return [ErrDecode], unless the function of [WithBadEntry] skips
// it. See [Tx.GetMany].
func (x TypedTx[T]) GetMany(keys ...string) (map[string]Entry[T], error) {
	entries, err := x.tx.getMany(x.t.store(), keys)
	if err != nil {
		return nil, err
	}
	out, err := x.t.decodeMany("get many", entries)
	if err != nil {
		return nil, x.tx.recordError(err)
	}
	return out, nil
}

// List yields every entry below the dir of the handle; see [Tx.List]. A value that cannot be
// decoded ends the listing with [ErrDecode], unless the function of [WithBadEntry] skips it.
func (x TypedTx[T]) List(o ...ListOption) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		for e, err := range x.tx.list(x.t.store(), "", o) {
			if err != nil {
				yield(Entry[T]{}, err)
				return
			}
			d, skip, err := x.t.decodeListed("list", e)
			if skip {
				continue
			}
			if err != nil {
				err = x.tx.recordError(err)
			}
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// Put writes key when the transaction is committed; see [Tx.Put].
func (x TypedTx[T]) Put(key string, v T, o ...LeaseOption) error {
	b, err := x.t.encode("put", key, v)
	if err != nil {
		if stop := x.tx.checkUsable(x.t.store()); stop != nil {
			return stop
		}
		return x.tx.recordError(err)
	}
	if err := x.tx.put(x.t.store(), key, b, o); err != nil {
		return err
	}
	x.hook(key)
	return nil
}

// Delete deletes key when the transaction is committed; see [Tx.Delete].
func (x TypedTx[T]) Delete(key string) error {
	if err := x.tx.delete(x.t.store(), key); err != nil {
		return err
	}
	x.hook(key)
	return nil
}

// hook registers the function of [Typed.OnWrite] to be called after the commit.
func (x TypedTx[T]) hook(key string) {
	if x.t.onWrite != nil {
		x.tx.hooks = append(x.tx.hooks, txHook{key: key, call: x.t.onWrite})
	}
}
