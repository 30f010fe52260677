package config

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"reflect"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/kv"
)

// All yields every key with the bytes that are in force, in key order, all of one revision, however long the loop takes.
// The bytes are shared: do not change them. A key that only the environment has is not among them, because its name
// cannot be told from the variable's. It sends nothing.
func (s *Source) All() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		s.mu.RLock()
		all := s.layers.pick(s.layers.keys("", false))
		s.mu.RUnlock()
		for _, p := range all {
			if !yield(p.key, p.value) {
				return
			}
		}
	}
}

// Keys returns the keys that [Source.All] yields.
func (s *Source) Keys() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.layers.keys("", false)
}

// Provenance says where the value of key comes from that is in force: Defaults where there is none. It sends nothing.
func (s *Source) Provenance(key string) Provenance {
	it, ok := s.lookup(key)
	if !ok {
		it.origin = Defaults
	}
	return keyedItem{key, it}.provenance()
}

func (s *Source) lookup(key string) (item, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.layers.lookup(key)
}

// Get decodes the value of key, in the encoding of T that the package comment lists: kv.ErrNotFound if there is none, a
// [*BadValueError] if it is bad. It reads memory, sends nothing, and decodes each time: what is asked for often is for
// [Bind].
func Get[T any](s *Source, key string) (T, error) {
	v, err := get[T](s, key)
	if err != nil {
		var none T
		return none, opError("get", key, err)
	}
	return v, nil
}

// GetOr is Get that returns def where there is no value or a bad one. A bad one is reported, once.
func GetOr[T any](s *Source, key string, def T) T {
	v, err := get[T](s, key)
	if err == nil {
		s.clearReportedBad(key)
		return v
	}
	if bad, ok := errors.AsType[*BadValueError](err); ok {
		s.reportBadOnce(bad)
	}
	return def
}

func get[T any](s *Source, key string) (v T, err error) {
	if s == nil {
		return v, invalid("no source")
	}
	if err := keyspace.Name(key); err != nil {
		return v, err
	}
	it, ok := s.lookup(key)
	if !ok {
		return v, cmp.Or(checkType(reflect.TypeFor[T]()), kv.ErrNotFound)
	}
	p := keyedItem{key, it}
	if err := p.tooLarge(s.options.maxBytes); err != nil {
		return v, p.badValue(err)
	}
	into := reflect.ValueOf(&v).Elem()
	panicked := callSafely(func() { err = decodeItem(it, into, format{yaml: isYAMLKey(key)}) })
	if panicked != nil {
		err = panicError(panicked)
	}
	if err != nil {
		return v, cmp.Or[error](checkType(reflect.TypeFor[T]()), p.badValue(err))
	}
	return v, nil
}

// checkKey is the check of a key that is about to be sent.
func (s *Source) checkKey(key string) error {
	if s == nil {
		return invalid("no source")
	}
	if err := s.checkOpen(); err != nil {
		return err
	}
	if err := keyspace.Name(key); err != nil {
		return err
	}
	if s.dir == "" && keyspace.IsHidden(key) {
		return fmt.Errorf("%w: keys below %q are the library's own", errs.Invalid, keyspace.Hidden)
	}
	return nil
}
