package config

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// FillStruct fills a struct from keys and values, as BindDir does.
func FillStruct[T any](values map[string]string, strict bool) (out T, err error) {
	p, err := newSchema(reflect.TypeFor[T](), strict)
	if err != nil {
		return out, err
	}
	var items []keyedItem
	for key, value := range values {
		items = append(items, keyedItem{key, item{value: []byte(value)}})
	}
	slices.SortFunc(items, func(a, b keyedItem) int { return strings.Compare(a.key, b.key) })
	if err := p.defaults(reflect.ValueOf(&out).Elem()); err != nil {
		return out, err
	}
	if bad := p.fill(reflect.ValueOf(&out).Elem(), "", items, strict, DefaultMaxValueBytes); bad != nil {
		return out, bad
	}
	return out, nil
}

// EncodeStruct returns what Set of a directory writes if etcd has nothing.
func EncodeStruct[T any](x T) (map[string]string, error) {
	p, err := newSchema(reflect.TypeFor[T](), false)
	if err != nil {
		return nil, err
	}
	var zero T
	d := dirWrite{schema: p, storedKeys: func(string) []string { return nil }, rewrite: p.keys("")}
	err = d.diff(reflect.ValueOf(&zero).Elem(), reflect.ValueOf(&x).Elem())
	out := make(map[string]string, len(d.ops))
	for _, op := range d.ops {
		out[string(op.KeyBytes())] = string(op.ValueBytes())
	}
	return out, err
}

// SchemaError returns what is wrong with a struct type.
func SchemaError(t reflect.Type) error {
	_, err := newSchema(t, false)
	return err
}

// ParseFallback returns the keys and values of a fallback file.
func ParseFallback(b []byte, isJSON bool) (map[string]string, error) {
	l, err := parseFallback(b, isJSON)
	return texts(l), err
}

// StateRoundTrip writes a state file's content and reads it again.
func StateRoundTrip(values map[string]string) (map[string]string, error) {
	l := make(layer, len(values))
	for key, value := range values {
		l[key] = item{value: []byte(value), rev: 1}
	}
	b, err := formatState("dir/", 7, time.Now(), l)
	if err != nil {
		return nil, err
	}
	out, err := parseState(b, "dir/")
	return texts(out.etcd), err
}

// ParseState reads a state file's content.
func ParseState(b []byte) error {
	_, err := parseState(b, "dir/")
	return err
}

func texts(l layer) map[string]string {
	out := make(map[string]string, len(l))
	for key, it := range l {
		out[key] = string(it.value)
	}
	return out
}

// Kebab returns the key of a field without a tag.
var Kebab = kebab

// Variable returns the name of the environment variable of a key.
var Variable = envName

// Save writes the state file at once.
func (s *Source) Save() error { return s.save() }
