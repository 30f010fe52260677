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

// All yields every key and its effective value in key order, all of one revision. Do not modify the
// bytes. Keys set by the environment only are missing, because a variable's name does not determine
// its key. It sends nothing.
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

// Provenance returns the origin of key's effective value, or Defaults if there is none. It sends
// nothing.
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

// Get decodes the value of key with the encoding of T listed in the package documentation. It
// returns kv.ErrNotFound if there is none and a [*BadValueError] if it is invalid. It reads memory,
// sends nothing, and decodes on each call; use [Bind] for values that are read often.
func Get[T any](s *Source, key string) (T, error) {
	v, err := get[T](s, key)
	if err != nil {
		var none T
		return none, opError("get", key, err)
	}
	return v, nil
}

// GetOr is like Get, but returns def if the value is missing or invalid. An invalid value is
// reported once.
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
		return v, errs.Invalidf("nil source")
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

// checkKey returns an error if the source is closed or key must not be sent.
func (s *Source) checkKey(key string) error {
	if s == nil {
		return errs.Invalidf("nil source")
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
