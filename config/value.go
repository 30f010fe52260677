package config

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/etcdkit/etcdkit/kv"
)

// A Value holds the last valid state of a key or directory, decoded. Create one with [Bind] or
// [BindDir]. It lives as long as its source; bind once, not per request. It is safe for concurrent
// use.
type Value[T any] struct {
	current atomic.Pointer[T]

	src          *Source
	path         string // the key, or the dir with its "/"
	options      bindOptions[T]
	schema       *schema // nil unless bound with BindDir
	defaultValue *T      // nil without a default

	mu        sync.Mutex
	latest    []keyedItem // decoded last, valid or not
	good      []keyedItem // items of current; defaults have none
	err       error
	followers map[*listenerQueue[T]]struct{}
}

// Load returns the last valid value, or the default. It costs an atomic load and a copy of the
// value, and allocates nothing. Maps and slices in the value are shared; do not modify them.
func (v *Value[T]) Load() T { return *v.current.Load() }

// Err returns nil if Load returns the source's latest state. Otherwise it returns why that state is
// invalid: a [*BadValueError] or, for a directory, an error wrapping one for each invalid key.
func (v *Value[T]) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// Provenance returns the origin of each key of Load's value. Keys at their default are missing.
func (v *Value[T]) Provenance() []Provenance {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make([]Provenance, 0, len(v.good))
	for _, p := range v.good {
		out = append(out, p.provenance())
	}
	return out
}

func (p keyedItem) provenance() Provenance {
	return Provenance{Key: p.key, Origin: p.origin, Revision: p.rev, Name: p.name}
}

// Follow calls f with the current value and then with each new value, in order and one at a time,
// on a goroutine of its own. Load returns the new value before f is called with it. If f is slow
// and 256 values are waiting, only the last one is kept. A panic of f is recovered, counted and
// logged. f is not called after the source is closed.
//
// stop waits for a running call of f to return, and f is not called again. If stop is called from f
// or from another callback of this package, it does not wait. stop is idempotent.
func (v *Value[T]) Follow(f func(T)) (stop func()) {
	if f == nil {
		return func() {}
	}
	q := newListenerQueue(func(x T) { v.src.runCallback("value", v.path, func() { f(x) }) }, keepLast[T])
	forget := func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.followers, q)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	stop, ok := v.src.startCallback(q, q.run, forget)
	if ok {
		q.push(v.Load())
		v.followers[q] = struct{}{}
	}
	return stop
}

// keepLast returns the last value: each value supersedes the earlier ones.
func keepLast[T any](queue []T) []T { return queue[len(queue)-1:] }

// Set validates x and writes it, with [Set] if v is bound to a key. It returns once Load returns x
// or a later value or, if the watch is down, a few seconds after etcd has acknowledged the write.
// If the environment overrides the key, Load continues to return the variable's value.
//
// For a directory, Set writes the fields that differ from the source's state, and invalid ones, in
// one transaction. It deletes the keys of nil pointers and of map entries that x lacks. A field
// that is at its default is written only if x changes it. Options are refused. If there is nothing
// to write, Set returns 0 and nil. Unlike Set, [Value.Update] preserves concurrent changes by other
// writers.
func (v *Value[T]) Set(ctx context.Context, x T, o ...kv.PutOption) (rev int64, err error) {
	if err := v.validate(x); err != nil {
		return 0, opError("set", v.path, err)
	}
	if v.schema != nil {
		return v.setDir(ctx, x, o)
	}
	b, err := v.encode(x)
	if err != nil {
		return 0, opError("set", v.path, err)
	}
	return v.src.put(ctx, v.path, b, o)
}

// encode returns the stored form of x.
func (v *Value[T]) encode(x T) (b []byte, err error) {
	if p := callSafely(func() {
		if v.options.codec != nil {
			b, err = v.options.codec.Encode(v.src.dir+v.path, x)
			err = encoderError(err)
		} else {
			b, err = encode(reflect.ValueOf(&x).Elem(), format{yaml: isYAMLKey(v.path)})
		}
	}); p != nil {
		err = p
	}
	return b, err
}

// validate calls the functions given to WithValidate.
func (v *Value[T]) validate(x T) error {
	for _, f := range v.options.validate {
		var err error
		if p := callSafely(func() { err = f(x) }); p != nil {
			err = p
		}
		if err != nil {
			return &validationError{err}
		}
	}
	return nil
}

// validationError is an error returned by a user's validation function.
type validationError struct{ err error }

func (e *validationError) Error() string   { return ErrValidation.Error() + ": " + e.err.Error() }
func (e *validationError) Unwrap() []error { return []error{ErrValidation, e.err} }

// update decodes the value from the layers if its bytes have changed, and stores it if it is valid.
// The returned function notifies followers; it must be called once all values are at rev.
func (v *Value[T]) update(l *layers, rev int64) (notify func()) {
	items := v.items(l)
	v.mu.Lock()
	if sameValues(items, v.latest) { // same bytes, or overridden by a stronger layer
		if v.latest = items; v.err == nil {
			v.good = items
		}
		v.mu.Unlock()
		return func() {}
	}
	v.mu.Unlock()
	out, err := v.build(items)
	bad := listBad(err)
	for _, b := range bad {
		if b.Revision == 0 && b.Origin == Live {
			b.Revision = rev // a deletion
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.err
	v.latest, v.err = items, err
	if bad != nil {
		return func() { v.src.reportBadValue(v.path, before == nil, err) }
	}
	v.good = items
	v.current.Store(out)
	// A later follower starts with the value just stored.
	followers := slices.Collect(maps.Keys(v.followers))
	return func() {
		for _, q := range followers {
			v.src.merged.Add(uint64(q.push(*out))) //nolint:gosec // not negative
		}
		if before != nil {
			v.src.reportGoodAgain(v.path)
		}
	}
}

// restoreLastGood replaces the keys of v in etcd by those of the last valid value.
func (v *Value[T]) restoreLastGood(etcd layer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key := range etcd {
		if v.covers(key) {
			delete(etcd, key)
		}
	}
	for _, p := range v.good {
		if p.origin == Live || p.origin == StateFile {
			etcd[p.key] = p.item
		}
	}
}

// covers reports whether key belongs to the value.
func (v *Value[T]) covers(key string) bool {
	if v.schema == nil {
		return key == v.path
	}
	name, below := strings.CutPrefix(key, v.path)
	if !below {
		return false
	}
	l, _ := v.schema.find(name)
	return l != nil || v.options.strict
}

// items returns the effective items of the value.
func (v *Value[T]) items(l *layers) []keyedItem {
	if v.schema == nil {
		return l.pick([]string{v.path})
	}
	if len(v.schema.dirs) == 0 && !v.options.strict {
		return l.pick(v.schema.keys(v.path))
	}
	out := l.pick(slices.DeleteFunc(l.keys(v.path, true), func(key string) bool { return !v.covers(key) }))
	out = slices.DeleteFunc(out, func(p keyedItem) bool { return v.schema.covers(strings.TrimPrefix(p.key, v.path), p.item) })
	have := make(map[string]bool, len(out))
	for _, p := range out {
		have[p.key] = true
	}
	for _, key := range v.schema.keys(v.path) { // includes keys set by the environment only
		if it, ok := l.lookup(key); ok && !have[key] {
			out = append(out, keyedItem{key, it})
		}
	}
	return out
}

// build decodes and validates items. The error is a *BadValueError or a badValuesError.
func (v *Value[T]) build(items []keyedItem) (out *T, err error) {
	v.src.decodes.Add(1)
	if out, err = v.decode(items); err != nil {
		return nil, err
	}
	if err := v.validate(*out); err != nil {
		bad := &BadValueError{Key: v.path, Origin: commonOrigin(items), Err: err}
		for _, p := range items {
			bad.Revision = max(bad.Revision, p.rev)
		}
		return nil, bad
	}
	return out, nil
}

// decode is build without validation.
func (v *Value[T]) decode(items []keyedItem) (*T, error) {
	switch {
	case v.schema != nil:
		out := new(T)
		*out = *v.defaultValue // never nil for a directory
		if bad := v.fill(out, items); bad != nil {
			return nil, bad
		}
		return out, nil
	case len(items) > 0:
		return v.decodeKey(items[0])
	case v.defaultValue != nil:
		return v.defaultValue, nil
	}
	return nil, &BadValueError{Key: v.path, Err: kv.ErrNotFound}
}

// fill sets the fields of into to the given items.
func (v *Value[T]) fill(into *T, items []keyedItem) badValuesError {
	return v.schema.fill(reflect.ValueOf(into).Elem(), v.path, items, v.options.strict, v.src.options.maxBytes)
}

func (v *Value[T]) decodeKey(p keyedItem) (out *T, err error) {
	if err := p.tooLarge(v.src.options.maxBytes); err != nil {
		return nil, p.badValue(err)
	}
	out = new(T)
	if panicked := callSafely(func() {
		if v.options.codec == nil {
			err = decodeItem(p.item, reflect.ValueOf(out).Elem(), format{yaml: isYAMLKey(v.path), strict: v.options.strict})
			return
		}
		if *out, err = v.options.codec.Decode(v.src.dir+v.path, p.value); err != nil && !errors.Is(err, kv.ErrDecode) {
			err = decoderError("codec", err)
		}
	}); panicked != nil {
		err = panicError(panicked)
	}
	if err != nil {
		return nil, p.badValue(err)
	}
	return out, nil
}
