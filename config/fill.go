package config

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// keys returns the keys of all leaves below dir.
func (s *schema) keys(dir string) []string {
	out := make([]string, 0, len(s.fields))
	for _, l := range s.fields {
		if !l.dir {
			out = append(out, dir+l.name)
		}
	}
	return out
}

// find returns the leaf that a name belongs to, and, where that is a map, the key in it; nil where the name belongs to
// none.
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

// fill makes a struct of the pieces that lie below dir. v holds the default before, and nothing that it refers to is
// changed. A missing field keeps its default, and so does a bad one. All that is bad is returned.
func (s *schema) fill(v reflect.Value, dir string, items []keyedItem, strict bool, limit int) (bad badValuesError) {
	f := filler{schema: s, into: v, dir: dir, present: make(map[string]bool), maps: make(map[*field]reflect.Value), vars: make(map[string]string)}
	for _, piece := range items {
		if err := f.add(piece, strict, limit); err != nil {
			bad = append(bad, piece.badValue(err))
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

// filler is a struct that is being filled.
type filler struct {
	*schema

	into    reflect.Value
	dir     string
	present map[string]bool // names of leaves
	maps    map[*field]reflect.Value
	vars    map[string]string // by variable: the key that it was used for
}

// addFields sets the field that a piece belongs to.
func (f *filler) add(piece keyedItem, strict bool, limit int) error {
	l, entry := f.find(strings.TrimPrefix(piece.key, f.dir))
	if l == nil {
		if strict && !piece.mapping { // the fields of a mapping are pieces of their own
			return &decodeError{why: "no field has this key"}
		}
		return nil
	}
	f.present[l.name] = true
	if piece.origin == Environment {
		if other, used := f.vars[piece.name]; used {
			return &decodeError{why: "its variable " + piece.name + " is that of the key " + errs.Quote(other) + ", too"}
		}
		f.vars[piece.name] = piece.key
	}
	if err := piece.tooLarge(limit); err != nil {
		return err
	}
	field := f.into.FieldByIndex(l.index)
	t := field.Type()
	if l.dir {
		t = t.Elem()
	}
	x := reflect.New(t).Elem() // a decoder would write into a map of the default
	if err := l.decode(piece.item, x); err != nil {
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

// covers reports whether an item of the fallback file says nothing for the plan but what another one says: it is a
// mapping, and no value of a field, or lies in a mapping that is one.
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

// tooLarge refuses a piece over the limit.
func (p keyedItem) tooLarge(limit int) error {
	if len(p.value) <= limit {
		return nil
	}
	return fmt.Errorf("%w: value is %d bytes, the limit is %d", errs.TooLarge, len(p.value), limit)
}
