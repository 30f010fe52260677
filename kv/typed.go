package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Typed is a store of values of one type below a dir. It gives and takes keys below that dir. It is a small value: copy
// it freely. The zero Typed is not usable; make one with [NewTyped].
type Typed[T any] struct {
	s     *Store
	dir   string // that of s below the store given to NewTyped
	codec Codec[T]
	bad   func(key string, rev int64, err error) error
	wrote func(ctx context.Context, key string, rev int64)
}

// OnWrite returns a handle like t which calls f after each write that it makes, before that write returns: with the revision at
// which it took effect; where it was refused, with the revision that the key was found at, if that is known; and with 0
// where nothing is known of the key any more, because the outcome is unknown or the key was not as expected. It does not
// call f for what was refused before it was sent. ctx is that of the write, and may have ended. f runs in the caller's
// goroutine, for several writes at once. This is how a cache learns what its own process has changed.
func (t Typed[T]) OnWrite(f func(ctx context.Context, key string, rev int64)) Typed[T] {
	t.wrote = f
	return t
}

// tell tells of a write.
func (t Typed[T]) tell(ctx context.Context, key string, rev int64, err error) {
	if t.wrote == nil || errors.Is(err, errs.Invalid) {
		return
	}
	if err != nil {
		rev = 0
		if found, ok := errors.AsType[*ConflictError](err); ok {
			rev = found.Have
		}
	}
	t.wrote(ctx, key, rev)
}

// TypedOption is an option of [NewTyped].
type TypedOption func(*typedSettings)

type typedSettings struct {
	bad func(key string, rev int64, err error) error
}

// WithBadEntry is told of a stored value that does not decode, while a listing goes on: f returns nil to skip the entry,
// or the error to end the listing with. Default: the listing ends with [ErrDecode].
func WithBadEntry(f func(key string, rev int64, err error) error) TypedOption {
	return func(s *typedSettings) { s.bad = f }
}

// NewTyped returns the typed store of what lies below dir in s, in the form of c. It sends nothing. What is wrong with
// the arguments is returned by every call.
func NewTyped[T any](s *Store, dir string, c Codec[T], o ...TypedOption) Typed[T] {
	var set typedSettings
	for _, opt := range o {
		if opt != nil {
			opt(&set)
		}
	}
	if s == nil {
		s = noStore()
	}
	root := s.ns
	s = s.Namespace(dir)
	if c == nil {
		s.bad = join(append(make([]error, 0, 2), s.bad, fmt.Errorf("%w: no codec", errs.Invalid)))
	}
	return Typed[T]{s: s, dir: s.ns[len(root):], codec: c, bad: set.bad}
}

// Get returns the current entry of key, [ErrNotFound], or [ErrDecode]. One RPC; see [Store.Get].
func (t Typed[T]) Get(ctx context.Context, key string) (Entry[T], error) {
	e, err := t.store().Get(ctx, key)
	if err != nil {
		return Entry[T]{}, err
	}
	return t.decode("get", e)
}

// GetAsOf returns key as it was at revision rev. One RPC; see [Store.GetAsOf].
func (t Typed[T]) GetAsOf(ctx context.Context, key string, rev int64) (Entry[T], error) {
	e, err := t.store().GetAsOf(ctx, key, rev)
	if err != nil {
		return Entry[T]{}, err
	}
	return t.decode("get as of", e)
}

// Put writes key, whatever stands there. One RPC; see [Store.Put].
func (t Typed[T]) Put(ctx context.Context, key string, v T, o ...PutOption) (rev int64, err error) {
	b, err := t.encode("put", key, v)
	if err != nil {
		return 0, err
	}
	rev, err = t.store().Put(ctx, key, b, o...)
	t.tell(ctx, key, rev, err)
	return rev, err
}

// Create writes key if it is absent, or returns [ErrExists]. One RPC; see [Store.Create].
func (t Typed[T]) Create(ctx context.Context, key string, v T, o ...PutOption) (rev int64, err error) {
	b, err := t.encode("create", key, v)
	if err != nil {
		return 0, err
	}
	rev, err = t.store().Create(ctx, key, b, o...)
	t.tell(ctx, key, rev, err)
	return rev, err
}

// Replace writes key if it still stands at modRevision, or returns a [ConflictError]. One RPC; see [Store.Replace].
func (t Typed[T]) Replace(ctx context.Context, key string, v T, modRevision int64, o ...PutOption) (rev int64, err error) {
	b, err := t.encode("replace", key, v)
	if err != nil {
		return 0, err
	}
	rev, err = t.store().Replace(ctx, key, b, modRevision, o...)
	t.tell(ctx, key, rev, err)
	return rev, err
}

// Delete deletes key; 0 and no error when there was nothing to delete. One RPC; see [Store.Delete].
func (t Typed[T]) Delete(ctx context.Context, key string, o ...DeleteOption) (rev int64, err error) {
	rev, err = t.store().Delete(ctx, key, o...)
	t.tell(ctx, key, rev, err)
	return rev, err
}

// DeleteAt deletes key if it still stands at modRevision, or returns a [ConflictError]. One RPC; see [Store.DeleteAt].
func (t Typed[T]) DeleteAt(ctx context.Context, key string, modRevision int64, o ...DeleteOption) (rev int64, err error) {
	rev, err = t.store().DeleteAt(ctx, key, modRevision, o...)
	t.tell(ctx, key, rev, err)
	return rev, err
}

// Update lets f change the value of key in place, and returns the entry as it then stands. f may be called more than
// once, each time on a value of its own. A stored value that does not decode is [ErrDecode], and stays. See
// [Store.Update] for the rest, ErrSkipUpdate and the cost included.
func (t Typed[T]) Update(ctx context.Context, key string, f func(v *T) error, o ...UpdateOption) (Entry[T], error) {
	if f == nil {
		return Entry[T]{}, t.store().fail("update", key, fmt.Errorf("%w: no function", errs.Invalid))
	}
	var v T
	skipped := false
	opts, _ := updateOptions(o) // Update complains
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
		before, known := t.plain(key, v, opts.skipEqual && cur.ModRevision != 0)
		if err := f(&v); err != nil {
			skipped = errors.Is(err, ErrSkipUpdate)
			return nil, err
		}
		skipped = false
		if after, _ := t.plain(key, v, known); known && bytes.Equal(after, before) {
			skipped = true
			return nil, ErrSkipUpdate
		}
		b, err := t.encode("update", key, v)
		if err != nil {
			return nil, err
		}
		// What cannot be read again must not be written: the entry that is returned is what others will read.
		if v, err = t.codec.Decode(t.dir+key, b); err != nil {
			return nil, t.store().fail("update", key, &codecError{what: "the new value cannot be decoded again", is: errs.Invalid, cause: err})
		}
		return b, nil
	}, o...)
	if !skipped {
		t.tell(ctx, key, e.ModRevision, err)
	}
	switch {
	case err != nil:
		return Entry[T]{}, err
	case e.ModRevision == 0:
		return Entry[T]{Key: e.Key}, nil // skipped, and absent
	case skipped:
		return t.decode("update", e)
	}
	return typed(e, v), nil
}

// plain returns what the codec writes for v, below its layers. ok is false if that was not asked for, or is not possible.
func (t Typed[T]) plain(key string, v T, wanted bool) (b []byte, ok bool) {
	if !wanted {
		return nil, false
	}
	b, err := baseCodec(t.codec).Encode(t.dir+key, v)
	return b, err == nil
}

// List yields every entry below the dir, in key order, at one revision; see [Store.List]. A value that does not decode
// ends it with [ErrDecode] unless [WithBadEntry] has other plans.
func (t Typed[T]) List(ctx context.Context, o ...ListOption) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		for e, err := range t.store().List(ctx, "", o...) {
			if err != nil {
				yield(Entry[T]{}, err)
				return
			}
			d, skip, err := t.listed("list", e)
			if skip {
				continue
			}
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// Page returns the next limit entries, in one RPC; see [Store.Page]. A value that does not decode makes the page fail
// with [ErrDecode], or is left out, as [WithBadEntry] decides.
func (t Typed[T]) Page(ctx context.Context, limit int, c Cursor) (Page[T], error) {
	p, err := t.store().Page(ctx, "", limit, c)
	if err != nil {
		return Page[T]{}, err
	}
	out := Page[T]{Revision: p.Revision, Total: p.Total, Cursor: p.Cursor, Entries: make([]Entry[T], 0, len(p.Entries))}
	for _, e := range p.Entries {
		d, skip, err := t.listed("page", e)
		if err != nil {
			return Page[T]{}, err
		}
		if !skip {
			out.Entries = append(out.Entries, d)
		}
	}
	return out, nil
}

// store is the store below, also for a Typed that nobody made.
func (t Typed[T]) store() *Store {
	if t.s == nil {
		return noStore()
	}
	return t.s
}

func (t Typed[T]) encode(op, key string, v T) ([]byte, error) {
	if t.codec == nil {
		return nil, t.store().fail(op, key, fmt.Errorf("%w: no codec", errs.Invalid))
	}
	b, err := t.codec.Encode(t.dir+key, v)
	if err != nil {
		return nil, t.store().fail(op, key, &codecError{what: "value cannot be encoded", is: errs.Invalid, cause: err})
	}
	return b, nil
}

func (t Typed[T]) decode(op string, e Entry[[]byte]) (Entry[T], error) {
	v, err := t.codec.Decode(t.dir+e.Key, e.Value)
	if err != nil {
		what := "revision " + strconv.FormatInt(e.ModRevision, 10)
		return Entry[T]{}, t.store().fail(op, e.Key, &codecError{what: what, is: ErrDecode, cause: err})
	}
	return typed(e, v), nil
}

// typed is e with a decoded value.
func typed[T any](e Entry[[]byte], v T) Entry[T] {
	return Entry[T]{
		Key: e.Key, Value: v, CreateRevision: e.CreateRevision, ModRevision: e.ModRevision, Version: e.Version, Lease: e.Lease,
	}
}

// listed decodes one entry of many: one that does not decode is the user's to decide.
func (t Typed[T]) listed(op string, e Entry[[]byte]) (d Entry[T], skip bool, err error) {
	d, err = t.decode(op, e)
	if err == nil || t.bad == nil {
		return d, false, err
	}
	if err = t.bad(e.Key, e.ModRevision, err); err != nil {
		if _, ours := errors.AsType[*errs.Error](err); !ours {
			err = t.store().fail(op, e.Key, err)
		}
		return d, false, err
	}
	return d, true, nil
}
