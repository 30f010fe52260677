// Package redact recognizes types whose encoding hides their value, such as etcdkit.Secret, which
// is marshaled as "[redacted]". Storing the encoding of such a value would lose the value.
package redact

import (
	"bytes"
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// Revealer is a type that hides its value when it is marshaled, and returns it on request.
type Revealer interface {
	Reveal() string
}

// Reveal returns the value of v, which may be a pointer, if its type is a [Revealer].
func Reveal(v any) (string, bool) {
	if r, ok := v.(Revealer); ok {
		return r.Reveal(), true
	}
	return "", false
}

// Text reports whether MarshalText of t hides the value, that is, returns the same text for
// different values. It returns false for a type without MarshalText and UnmarshalText.
func Text(t reflect.Type) bool {
	ptr := reflect.PointerTo(t)
	if !ptr.Implements(reflect.TypeFor[encoding.TextMarshaler]()) || !ptr.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return false
	}
	return hides(t, func(text string, into any) error {
		u, _ := into.(encoding.TextUnmarshaler)
		return u.UnmarshalText([]byte(text))
	}, func(v any) ([]byte, error) {
		m, _ := v.(encoding.TextMarshaler)
		return m.MarshalText()
	})
}

// JSON reports whether the JSON of t hides the value of t or a part of it, and returns the path of
// the first such part, such as "Auth.Password", or "" for t itself. It does not inspect interfaces.
func JSON(t reflect.Type) (path string, hidden bool) {
	return walk(t, "", make(map[reflect.Type]bool))
}

func walk(t reflect.Type, path string, visited map[reflect.Type]bool) (string, bool) {
	if visited[t] {
		return "", false
	}
	visited[t] = true
	ptr := reflect.PointerTo(t)
	if ptr.Implements(reflect.TypeFor[json.Marshaler]()) || ptr.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface {
			return "", false
		}
		if hides(t, func(text string, into any) error { return json.Unmarshal([]byte(`"`+text+`"`), into) }, json.Marshal) {
			return path, true
		}
		return "", false
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return walk(t.Elem(), path, visited)
	case reflect.Map:
		if at, ok := walk(t.Key(), path, visited); ok {
			return at, true
		}
		return walk(t.Elem(), path, visited)
	case reflect.Struct:
		for f := range t.Fields() {
			if (!f.IsExported() && !f.Anonymous) || f.Tag.Get("json") == "-" {
				continue
			}
			if at, ok := walk(f.Type, strings.TrimPrefix(path+"."+f.Name, "."), visited); ok {
				return at, true
			}
		}
	}
	return "", false
}

// hides reports whether two different values of t, decoded from different texts, have the same
// encoding.
func hides(t reflect.Type, decode func(text string, into any) error, encode func(v any) ([]byte, error)) (hidden bool) {
	defer func() {
		if recover() != nil {
			hidden = false // a method panics
		}
	}()
	a, b := reflect.New(t), reflect.New(t)
	if decode("probe-1", a.Interface()) != nil || decode("probe-2", b.Interface()) != nil {
		return false
	}
	x, errX := encode(a.Interface())
	y, errY := encode(b.Interface())
	return errX == nil && errY == nil && bytes.Equal(x, y) && !reflect.DeepEqual(a.Interface(), b.Interface())
}
