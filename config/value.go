package config

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/etcdkit/etcdkit/kv"
)

// Value is configuration that is decoded, and always there: the last state that was good. Make one with [Bind] or
// [BindDir]. It lives as long as its source, so bind once, not for each request. It is safe for concurrent use.
type Value[T any] struct {
	current atomic.Pointer[T]

	src          *Source
	path         string // the key, or the dir with its "/"
	options      bindOptions[T]
	schema       *schema // of a dir
	defaultValue *T      // nil where there is none

	mu        sync.Mutex
	latest    []keyedItem // what was decoded last, good or bad
	good      []keyedItem // what current was made of; the defaults are in no piece
	err       error
	followers map[*listenerQueue[T]]struct{}
}

// Load returns the value: the last one that was good, or the default. It costs an atomic load and a copy of the value,
// nothing is allocated. What the value refers to, such as maps and slices, is shared and read-only.
func (v *Value[T]) Load() T { return *v.current.Load() }

// Err is nil while Load returns what the source has, and else why it returns something older: a [*BadValueError], or, for
// a dir, an error that holds one for each bad key.
func (v *Value[T]) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// Provenance says, for each key that Load's value was made of, where that came from. A key that is not in the list had
// its default.
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

// Follow calls f with the current value, and then with each later one after Load returns it, one at a time and in order,
// in a goroutine of its own. When f is slow and 256 values wait, only the last of them stays. A panic of f is contained,
// counted and logged, and the next value comes. After Close of the source, f is not called.
//
// stop returns when no call runs any more and none will begin; called by f itself, or by another function that this
// package has called, it does not wait. It is idempotent.
func (v *Value[T]) Follow(f func(T)) (stop func()) {
	if f == nil {
		return func() {}
	}
	t := newListenerQueue(func(x T) { v.src.runCallback("value", v.path, func() { f(x) }) }, keepLast[T])
	forget := func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.followers, t)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	stop, ok := v.src.startCallback(t, t.run, forget)
	if ok {
		t.push(v.Load())
		v.followers[t] = struct{}{}
	}
	return stop
}

// keepLast folds values, each of which is all that a follower has to know.
func keepLast[T any](queue []T) []T { return queue[len(queue)-1:] }

// Set validates x and writes it, if it is good, with [Set] for a key. It returns when Load returns x, or what came after
// it, or a few seconds after etcd has acknowledged it, when the watch is down. Where the environment overrides the key,
// Load goes on to return that.
//
// For a dir it writes the fields that differ from what the source has, bad ones included, in one transaction, and deletes
// the keys of nil pointers and of map entries that x has not; options are refused then. A field that is as it was is not
// written, so that a default stays a default. It is 0 and nil when there was nothing to write, and etcd had none of what
// there was to delete. [Value.Update] also keeps what others write at the same time.
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

// encode writes a value of a key.
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

// validate asks all functions given to WithValidate.
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

// validationError is a refusal in the user's words.
type validationError struct{ err error }

func (e *validationError) Error() string   { return ErrValidation.Error() + ": " + e.err.Error() }
func (e *validationError) Unwrap() []error { return []error{ErrValidation, e.err} }

// covers reports whether a key belongs to the value.
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

// items returns what the layers have for the value.
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
	for _, key := range v.schema.keys(v.path) { // those that only the environment has
		if it, ok := l.lookup(key); ok && !have[key] {
			out = append(out, keyedItem{key, it})
		}
	}
	return out
}

// build decodes and validates. The error is a *BadValueError, or badValues.
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

// decode is make without the validation.
func (v *Value[T]) decode(items []keyedItem) (*T, error) {
	switch {
	case v.schema != nil:
		out := new(T)
		*out = *v.defaultValue // a dir always has one
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

// fill sets the fields of a struct to what the layers have for them.
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
