package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Typed is a store of values of one type below a dir. Its keys are relative to that dir. It is a
// small value and may be copied. The zero Typed is not usable; create one with [NewTyped].
type Typed[T any] struct {
	s          *Store
	dir        string // the namespace of s, relative to the store given to NewTyped
	codec      Codec[T]
	onBadEntry func(key string, rev int64, err error) error
	onWrite    func(ctx context.Context, key string, rev int64)
}

// OnWrite returns a copy of t that calls f after each write through it, before the write returns.
// rev is the revision of the write if it was applied. If the condition of the write did not hold,
// rev is the revision of the key that was found, if known. Otherwise rev is 0, and the state of the
// key is not known, for example because the outcome of the write is unknown. f is not called for
// errors that match [ErrInvalid], since nothing was sent. ctx is the context of the write and may
// have ended. f runs on the caller's goroutine, and concurrently for concurrent writes. A cache
// uses OnWrite to learn of the writes of its own process.
func (t Typed[T]) OnWrite(f func(ctx context.Context, key string, rev int64)) Typed[T] {
	t.onWrite = f
	return t
}

// notifyWrite calls the function of OnWrite after a write.
func (t Typed[T]) notifyWrite(ctx context.Context, key string, rev int64, err error) {
	if t.onWrite == nil || errors.Is(err, errs.Invalid) {
		return
	}
	if err != nil {
		rev = 0
		if found, ok := errors.AsType[*ConflictError](err); ok {
			rev = found.Have
		}
	}
	t.onWrite(ctx, key, rev)
}

// TypedOption is an option of [NewTyped].
type TypedOption func(*typedSettings)

type typedSettings struct {
	onBadEntry func(key string, rev int64, err error) error
}

// WithBadEntry sets a function that is called for each stored value of a listing that cannot be
// decoded. f returns nil to skip the entry, or an error to end the listing with it. Default: the
// listing ends with [ErrDecode].
func WithBadEntry(f func(key string, rev int64, err error) error) TypedOption {
	return func(s *typedSettings) { s.onBadEntry = f }
}

// NewTyped returns a typed store of the keys below dir in s, encoded with c. It sends nothing. If
// the arguments are invalid, every call returns [ErrInvalid].
func NewTyped[T any](s *Store, dir string, c Codec[T], o ...TypedOption) Typed[T] {
	var set typedSettings
	for _, opt := range o {
		if opt != nil {
			opt(&set)
		}
	}
	if s == nil {
		s = invalidStore()
	}
	root := s.ns
	s = s.Namespace(dir)
	if c == nil {
		s.err = joinErrors(append(make([]error, 0, 2), s.err, fmt.Errorf("%w: no codec", errs.Invalid)))
	}
	return Typed[T]{s: s, dir: s.ns[len(root):], codec: c, onBadEntry: set.onBadEntry}
}

// Get returns the current entry of key. The error matches [ErrNotFound] if the key does not exist,
// and [ErrDecode] if its value cannot be decoded. It costs one RPC; see [Store.Get].
func (t Typed[T]) Get(ctx context.Context, key string) (Entry[T], error) {
	e, err := t.store().Get(ctx, key)
	if err != nil {
		return Entry[T]{}, err
	}
	return t.decode("get", e)
}

// GetAsOf returns the entry of key at revision rev. It costs one RPC; see [Store.GetAsOf].
func (t Typed[T]) GetAsOf(ctx context.Context, key string, rev int64) (Entry[T], error) {
	e, err := t.store().GetAsOf(ctx, key, rev)
	if err != nil {
		return Entry[T]{}, err
	}
	return t.decode("get as of", e)
}

// Put writes key unconditionally. It costs one RPC; see [Store.Put].
func (t Typed[T]) Put(ctx context.Context, key string, v T, o ...PutOption) (rev int64, err error) {
	b, err := t.encode("put", key, v)
	if err != nil {
		return 0, err
	}
	rev, err = t.store().Put(ctx, key, b, o...)
	t.notifyWrite(ctx, key, rev, err)
	return rev, err
}

// Create writes key if it does not exist. Otherwise it returns [ErrExists]. It costs one RPC; see
// [Store.Create].
func (t Typed[T]) Create(ctx context.Context, key string, v T, o ...PutOption) (rev int64, err error) {
	b, err := t.encode("create", key, v)
	if err != nil {
		return 0, err
	}
	rev, err = t.store().Create(ctx, key, b, o...)
	t.notifyWrite(ctx, key, rev, err)
	return rev, err
}

// Replace writes key if its mod revision is modRevision. Otherwise it returns a [ConflictError]. It
// costs one RPC; see [Store.Replace].
func (t Typed[T]) Replace(ctx context.Context, key string, v T, modRevision int64, o ...PutOption) (rev int64, err error) {
	b, err := t.encode("replace", key, v)
	if err != nil {
		return 0, err
	}
	rev, err = t.store().Replace(ctx, key, b, modRevision, o...)
	t.notifyWrite(ctx, key, rev, err)
	return rev, err
}

// Delete deletes key. It returns 0 and no error if the key does not exist. It costs one RPC; see
// [Store.Delete].
func (t Typed[T]) Delete(ctx context.Context, key string, o ...DeleteOption) (rev int64, err error) {
	rev, err = t.store().Delete(ctx, key, o...)
	t.notifyWrite(ctx, key, rev, err)
	return rev, err
}

// DeleteAt deletes key if its mod revision is modRevision. Otherwise it returns a [ConflictError].
// It costs one RPC; see [Store.DeleteAt].
func (t Typed[T]) DeleteAt(ctx context.Context, key string, modRevision int64, o ...DeleteOption) (rev int64, err error) {
	rev, err = t.store().DeleteAt(ctx, key, modRevision, o...)
	t.notifyWrite(ctx, key, rev, err)
	return rev, err
}

// Update calls f to modify the value of key in place, and returns the resulting entry. f may be
// called more than once, each time with a new value. If the stored value cannot be decoded, Update
// returns [ErrDecode] and keeps the value. [Store.Update] describes everything else, including
// ErrSkipUpdate and the cost.
func (t Typed[T]) Update(ctx context.Context, key string, f func(v *T) error, o ...UpdateOption) (Entry[T], error) {
	if f == nil {
		return Entry[T]{}, t.store().opError("update", key, fmt.Errorf("%w: no function", errs.Invalid))
	}
	var v T
	skipped := false
	opts, _ := updateOptions(o) // Update reports the error
	e, err := t.store().Update(ctx, key, func(cur Entry[[]byte]) ([]byte, error) {
		var zero T
		v = zero
		if cur.ModRevision != 0 {
			d, err := t.decode("update", cur)
			if err != nil {
				return nil, err
			}
			v = d.Value
		}
		before, known := t.encodeBase(key, v, opts.skipEqual && cur.ModRevision != 0)
		if err := f(&v); err != nil {
			skipped = errors.Is(err, ErrSkipUpdate)
			return nil, err
		}
		skipped = false
		if after, _ := t.encodeBase(key, v, known); known && bytes.Equal(after, before) {
			skipped = true
			return nil, ErrSkipUpdate
		}
		b, err := t.encode("update", key, v)
		if err != nil {
			return nil, err
		}
		// A value that cannot be decoded again must not be written. The decoded value is the one
		// returned, since others will read it.
		if v, err = t.codec.Decode(t.dir+key, b); err != nil {
			return nil, t.store().opError("update", key, &codecError{what: "the new value cannot be decoded again", sentinel: errs.Invalid, cause: err})
		}
		return b, nil
	}, o...)
	if !skipped {
		t.notifyWrite(ctx, key, e.ModRevision, err)
	}
	switch {
	case err != nil:
		return Entry[T]{}, err
	case e.ModRevision == 0:
		return Entry[T]{Key: e.Key}, nil // skipped, and the key does not exist
	case skipped:
		return t.decode("update", e)
	}
	return withValue(e, v), nil
}

// encodeBase returns the encoding of v without layers. ok is false if wanted is false or v cannot
// be encoded.
func (t Typed[T]) encodeBase(key string, v T, wanted bool) (b []byte, ok bool) {
	if !wanted {
		return nil, false
	}
	b, err := baseCodec(t.codec).Encode(t.dir+key, v)
	return b, err == nil
}

// store returns the underlying store, or an unusable one for the zero Typed.
func (t Typed[T]) store() *Store {
	if t.s == nil {
		return invalidStore()
	}
	return t.s
}

func (t Typed[T]) encode(op, key string, v T) ([]byte, error) {
	if t.codec == nil {
		return nil, t.store().opError(op, key, fmt.Errorf("%w: no codec", errs.Invalid))
	}
	b, err := t.codec.Encode(t.dir+key, v)
	if err != nil {
		return nil, t.store().opError(op, key, &codecError{what: "value cannot be encoded", sentinel: errs.Invalid, cause: err})
	}
	return b, nil
}

func (t Typed[T]) decode(op string, e Entry[[]byte]) (Entry[T], error) {
	v, err := t.codec.Decode(t.dir+e.Key, e.Value)
	if err != nil {
		what := "revision " + strconv.FormatInt(e.ModRevision, 10)
		return Entry[T]{}, t.store().opError(op, e.Key, &codecError{what: what, sentinel: ErrDecode, cause: err})
	}
	return withValue(e, v), nil
}

// withValue returns e with a decoded value.
func withValue[T any](e Entry[[]byte], v T) Entry[T] {
	return Entry[T]{
		Key: e.Key, Value: v, CreateRevision: e.CreateRevision, ModRevision: e.ModRevision, Version: e.Version, Lease: e.Lease,
	}
}
