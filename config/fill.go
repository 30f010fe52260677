package config

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// keys returns the keys of all fields below dir, without those of maps.
func (s *schema) keys(dir string) []string {
	out := make([]string, 0, len(s.fields))
	for _, l := range s.fields {
		if !l.dir {
			out = append(out, dir+l.name)
		}
	}
	return out
}

// find returns the field that a key belongs to and, if the field is a map, the entry's name. It
// returns nil if there is none.
func (s *schema) find(name string) (l *field, entry string) {
	if i, ok := s.byName[name]; ok && !s.fields[i].dir {
		return &s.fields[i], ""
	}
	for _, i := range s.dirs {
		if entry, ok := strings.CutPrefix(name, s.fields[i].name+"/"); ok {
			return &s.fields[i], entry
		}
	}
	return nil, ""
}

// fill sets the fields of v to the items below dir. v initially holds the defaults; what they refer
// to is not modified. Missing and invalid fields keep their defaults. fill returns all invalid
// items.
func (s *schema) fill(v reflect.Value, dir string, items []keyedItem, strict bool, limit int) (bad badValuesError) {
	f := filler{schema: s, into: v, dir: dir, present: make(map[string]bool), maps: make(map[*field]reflect.Value), vars: make(map[string]string)}
	for _, it := range items {
		if err := f.add(it, strict, limit); err != nil {
			bad = append(bad, it.badValue(err))
		}
	}
	for l, m := range f.maps {
		v.FieldByIndex(l.index).Set(m)
	}
	for _, l := range s.fields {
		if l.required && !f.present[l.name] {
			bad = append(bad, &BadValueError{Key: dir + l.name, Origin: Live, Err: kv.ErrNotFound})
		}
	}
	return bad
}

// filler is the state of one fill.
type filler struct {
	*schema

	into    reflect.Value
	dir     string
	present map[string]bool // by key
	maps    map[*field]reflect.Value
	vars    map[string]string // environment variable to the key it set
}

// add sets the field that item belongs to.
func (f *filler) add(it keyedItem, strict bool, limit int) error {
	l, entry := f.find(strings.TrimPrefix(it.key, f.dir))
	if l == nil {
		if strict && !it.mapping { // the fields of a mapping are items of their own
			return &decodeError{text: "no field has this key"}
		}
		return nil
	}
	f.present[l.name] = true
	if it.origin == Environment {
		if other, used := f.vars[it.name]; used {
			return &decodeError{text: "its variable " + it.name + " is that of the key " + errs.Quote(other) + ", too"}
		}
		f.vars[it.name] = it.key
	}
	if err := it.tooLarge(limit); err != nil {
		return err
	}
	field := f.into.FieldByIndex(l.index)
	t := field.Type()
	if l.dir {
		t = t.Elem()
	}
	x := reflect.New(t).Elem() // decoding into the field could modify a map of the defaults
	if err := l.decode(it.item, x); err != nil {
		return err
	}
	if !l.dir {
		field.Set(x)
		return nil
	}
	m, ok := f.maps[l]
	if !ok {
		m = reflect.MakeMap(field.Type())
		f.maps[l] = m
	}
	m.SetMapIndex(reflect.ValueOf(entry).Convert(m.Type().Key()), x)
	return nil
}

// covers reports whether other items of the fallback file say all that it says: it is a mapping
// whose fields are keys, or a part of a mapping that is one value.
func (s *schema) covers(name string, it item) bool {
	if it.mapping {
		if l, _ := s.find(name); l != nil && l.scalar {
			return true
		}
	}
	for i, c := range name {
		if it.nested && c == '/' {
			if l, _ := s.find(name[:i]); l != nil && !l.scalar {
				return true
			}
		}
	}
	return false
}

// defaults sets the fields that have a default tag.
func (s *schema) defaults(v reflect.Value) error {
	for _, l := range s.fields {
		if l.hasDefault {
			if err := l.decode(item{value: []byte(l.defaultText), origin: Defaults}, v.FieldByIndex(l.index)); err != nil {
				return err
			}
		}
	}
	return nil
}

// tooLarge returns an error if the item exceeds the limit.
func (p keyedItem) tooLarge(limit int) error {
	if len(p.value) <= limit {
		return nil
	}
	return fmt.Errorf("%w: value is %d bytes, the limit is %d", errs.TooLarge, len(p.value), limit)
}
