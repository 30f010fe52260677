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

	src  *Source
	at   string // the key, or the dir with its "/"
	set  bindSettings[T]
	plan *plan // of a dir
	def  *T    // nil where there is none

	mu     sync.Mutex
	latest []piece // what was decoded last, good or bad
	good   []piece // what current was made of; the defaults are in no piece
	err    error
	tails  map[*tail[T]]struct{}
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

func (p piece) provenance() Provenance {
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
	t := newTail(func(x T) { v.src.contained("value", v.at, func() { f(x) }) }, lastOne[T])
	forget := func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.tails, t)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	stop, ok := v.src.follow(t, t.run, forget)
	if ok {
		t.push(v.Load())
		v.tails[t] = struct{}{}
	}
	return stop
}

// lastOne folds values, each of which is all that a follower has to know.
func lastOne[T any](queue []T) []T { return queue[len(queue)-1:] }

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
		return 0, fail("set", v.at, err)
	}
	if v.plan != nil {
		return v.setDir(ctx, x, o)
	}
	b, err := v.encode(x)
	if err != nil {
		return 0, fail("set", v.at, err)
	}
	return v.src.put(ctx, v.at, b, o)
}

// encode writes a value of a key.
func (v *Value[T]) encode(x T) (b []byte, err error) {
	if p := told(func() {
		if v.set.codec != nil {
			b, err = v.set.codec.Encode(v.src.dir+v.at, x)
			err = unencoded(err)
		} else {
			b, err = encode(reflect.ValueOf(&x).Elem(), form{yaml: isYAML(v.at)})
		}
	}); p != nil {
		err = p
	}
	return b, err
}

// validate asks all functions given to WithValidate.
func (v *Value[T]) validate(x T) error {
	for _, f := range v.set.validate {
		var err error
		if p := told(func() { err = f(x) }); p != nil {
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

// touched reports whether a key belongs to the value.
func (v *Value[T]) touched(key string) bool {
	if v.plan == nil {
		return key == v.at
	}
	name, below := strings.CutPrefix(key, v.at)
	if !below {
		return false
	}
	l, _ := v.plan.find(name)
	return l != nil || v.set.strict
}

// pieces returns what the layers have for the value.
func (v *Value[T]) pieces(l *layers) []piece {
	if v.plan == nil {
		return l.pick([]string{v.at})
	}
	if len(v.plan.dirs) == 0 && !v.set.strict {
		return l.pick(v.plan.keys(v.at))
	}
	out := l.pick(slices.DeleteFunc(l.keys(v.at, true), func(key string) bool { return !v.touched(key) }))
	out = slices.DeleteFunc(out, func(p piece) bool { return v.plan.covers(strings.TrimPrefix(p.key, v.at), p.item) })
	have := make(map[string]bool, len(out))
	for _, p := range out {
		have[p.key] = true
	}
	for _, key := range v.plan.keys(v.at) { // those that only the environment has
		if it, ok := l.lookup(key); ok && !have[key] {
			out = append(out, piece{key, it})
		}
	}
	return out
}

// make decodes and validates. The error is a *BadValueError, or badValues.
func (v *Value[T]) make(pieces []piece) (out *T, err error) {
	v.src.decodes.Add(1)
	if out, err = v.decode(pieces); err != nil {
		return nil, err
	}
	if err := v.validate(*out); err != nil {
		bad := &BadValueError{Key: v.at, Origin: originOf(pieces), Err: err}
		for _, p := range pieces {
			bad.Revision = max(bad.Revision, p.rev)
		}
		return nil, bad
	}
	return out, nil
}

// decode is make without the validation.
func (v *Value[T]) decode(pieces []piece) (*T, error) {
	switch {
	case v.plan != nil:
		out := new(T)
		*out = *v.def // a dir always has one
		if bad := v.fill(out, pieces); bad != nil {
			return nil, bad
		}
		return out, nil
	case len(pieces) > 0:
		return v.makeOne(pieces[0])
	case v.def != nil:
		return v.def, nil
	}
	return nil, &BadValueError{Key: v.at, Err: kv.ErrNotFound}
}

// fill sets the fields of a struct to what the layers have for them.
func (v *Value[T]) fill(into *T, pieces []piece) badValuesError {
	return v.plan.fill(reflect.ValueOf(into).Elem(), v.at, pieces, v.set.strict, v.src.set.maxBytes)
}

func (v *Value[T]) makeOne(p piece) (out *T, err error) {
	if err := p.tooLarge(v.src.set.maxBytes); err != nil {
		return nil, p.bad(err)
	}
	out = new(T)
	if panicked := told(func() {
		if v.set.codec == nil {
			err = decodeItem(p.item, reflect.ValueOf(out).Elem(), form{yaml: isYAML(v.at), strict: v.set.strict})
			return
		}
		if *out, err = v.set.codec.Decode(v.src.dir+v.at, p.value); err != nil && !errors.Is(err, kv.ErrDecode) {
			err = undecoded("codec", err)
		}
	}); panicked != nil {
		err = exploded(panicked)
	}
	if err != nil {
		return nil, p.bad(err)
	}
	return out, nil
}
