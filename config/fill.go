package config

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// keys returns the keys of all leaves below dir.
func (p *plan) keys(dir string) []string {
	out := make([]string, 0, len(p.leaves))
	for _, l := range p.leaves {
		if !l.dir {
			out = append(out, dir+l.name)
		}
	}
	return out
}

// find returns the leaf that a name belongs to, and, where that is a map, the key in it; nil where the name belongs to
// none.
func (p *plan) find(name string) (l *leaf, entry string) {
	if i, ok := p.byName[name]; ok && !p.leaves[i].dir {
		return &p.leaves[i], ""
	}
	for _, i := range p.dirs {
		if entry, ok := strings.CutPrefix(name, p.leaves[i].name+"/"); ok {
			return &p.leaves[i], entry
		}
	}
	return nil, ""
}

// fill makes a struct of the pieces that lie below dir. v holds the default before, and nothing that it refers to is
// changed. A missing field keeps its default.
func (p *plan) fill(v reflect.Value, dir string, pieces []piece, strict bool, limit int) error {
	there := make(map[string]bool, len(pieces))
	maps := make(map[*leaf]reflect.Value)
	for _, piece := range pieces {
		l, entry := p.find(strings.TrimPrefix(piece.key, dir))
		if l == nil {
			if strict {
				return piece.bad(&decodeError{why: "no field has this key"})
			}
			continue
		}
		into := v.FieldByIndex(l.index)
		if l.dir {
			into = reflect.New(into.Type().Elem()).Elem()
		}
		if err := piece.tooLarge(limit); err != nil {
			return err
		}
		x := reflect.New(into.Type()).Elem() // a decoder would write into a map of the default
		if err := l.decode(piece.value, x); err != nil {
			return piece.bad(err)
		}
		if !l.dir {
			into.Set(x)
			there[l.name] = true
			continue
		}
		m, ok := maps[l]
		if !ok {
			m = reflect.MakeMap(v.FieldByIndex(l.index).Type())
			maps[l] = m
		}
		m.SetMapIndex(reflect.ValueOf(entry).Convert(m.Type().Key()), x)
	}
	for l, m := range maps {
		v.FieldByIndex(l.index).Set(m)
	}
	for _, l := range p.leaves {
		if l.required && !there[l.name] {
			return &BadValueError{Key: dir + l.name, Origin: Live, Err: kv.ErrNotFound}
		}
	}
	return nil
}

// defaults sets the fields that have a default tag.
func (p *plan) defaults(v reflect.Value) error {
	for _, l := range p.leaves {
		if l.hasDef {
			if err := l.decode([]byte(l.def), v.FieldByIndex(l.index)); err != nil {
				return err
			}
		}
	}
	return nil
}

// bad says that a piece cannot be used.
func (p piece) bad(err error) error {
	return &BadValueError{Key: p.key, Revision: p.rev, Origin: p.origin, Err: err}
}

// tooLarge refuses a piece over the limit.
func (p piece) tooLarge(limit int) error {
	if len(p.value) <= limit {
		return nil
	}
	return p.bad(fmt.Errorf("%w: value is %d bytes, the limit is %d", errs.TooLarge, len(p.value), limit))
}
