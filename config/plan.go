package config

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// leaf is a field that has a key of its own, or, if it is a dir, a map with a key for each entry.
type leaf struct {
	name     string // below the dir
	index    []int
	field    string // as Go has it, for messages
	form     form
	document bool // JSON, whatever the type
	dir      bool
	scalar   bool // of a dir: each entry is a number, a boolean or a duration
	required bool
	def      string
	hasDef   bool
}

// plan says which keys below a dir fill which fields of a struct.
type plan struct {
	leaves []leaf
	byName map[string]int
	dirs   []int // leaves that are maps
}

// newPlan makes the plan of a type; all that is wrong with it is the error.
func newPlan(t reflect.Type, strict bool) (*plan, error) {
	if t.Kind() != reflect.Struct {
		return nil, invalid("%v is no struct", t)
	}
	p := &plan{byName: make(map[string]int)}
	var complaints []error
	p.add(t, "", nil, form{strict: strict}, nil, &complaints)
	for i, l := range p.leaves {
		if l.dir {
			p.dirs = append(p.dirs, i)
		}
		if err := p.place(i); err != nil {
			complaints = append(complaints, err)
		}
	}
	if len(p.leaves) == 0 && len(complaints) == 0 {
		complaints = append(complaints, invalid("%v has no field that can be set", t))
	}
	return p, errors.Join(complaints...)
}

// place enters a leaf under its name, which must be its own.
func (p *plan) place(i int) error {
	l := p.leaves[i]
	if err := keyspace.Name(l.name); err != nil {
		return invalid("field %s: %w", l.field, err)
	}
	if other, taken := p.byName[l.name]; taken {
		return invalid("fields %s and %s have the same key %q", p.leaves[other].field, l.field, l.name)
	}
	p.byName[l.name] = i
	for j, other := range p.leaves {
		if j != i && other.dir && strings.HasPrefix(l.name, other.name+"/") {
			return invalid("field %s lies below %q, which is field %s", l.field, other.name+"/", other.field)
		}
	}
	return nil
}

// add makes leaves of the fields of a struct that lies at prefix.
func (p *plan) add(t reflect.Type, prefix string, index []int, f form, above []string, complaints *[]error) {
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, err := parseTag(sf)
		path := append(slices.Clip(above), sf.Name)
		if err != nil {
			*complaints = append(*complaints, invalid("field %s: %w", strings.Join(path, "."), err))
			continue
		}
		at := append(slices.Clip(index), i)
		group := isGroup(sf.Type) && !tag.document
		switch {
		case tag.skip, !sf.IsExported() && !sf.Anonymous:
		case !sf.IsExported() && sf.Type.Kind() == reflect.Pointer && isGroup(sf.Type.Elem()):
			err := invalid("field %s: a pointer to a struct of an unexported type cannot be set: embed the struct", strings.Join(path, "."))
			*complaints = append(*complaints, err)
		case !sf.IsExported() && !group:
		case group && sf.Anonymous && !tag.named:
			p.add(sf.Type, prefix, at, f, path, complaints)
		case group && (tag.required || tag.hasDef):
			err := invalid("field %s: a struct of keys is neither required nor has it a default", strings.Join(path, "."))
			*complaints = append(*complaints, err)
		case group: // also an embedded one of an unexported type: its fields can be set
			p.add(sf.Type, prefix+tag.name+"/", at, f, path, complaints)
		default:
			l := leaf{
				name: prefix + tag.name, index: at, field: strings.Join(path, "."), form: f, document: tag.document,
				dir: tag.dir, required: tag.required, def: tag.def, hasDef: tag.hasDef,
			}
			l.form.yaml = isYAML(l.name)
			if l.dir && sf.Type.Kind() == reflect.Map {
				l.scalar = isScalar(sf.Type.Elem())
			}
			if err := l.check(sf.Type); err != nil {
				*complaints = append(*complaints, invalid("field %s: %w", l.field, err))
			}
			p.leaves = append(p.leaves, l)
		}
	}
}

// isGroup reports whether a type is a struct whose fields have keys of their own, and not one that reads itself.
func isGroup(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && encodingOf(t) == asDocument &&
		!reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
}

// check refuses fields that nothing can be decoded into, and defaults that are bad values.
func (l *leaf) check(t reflect.Type) error {
	if l.dir {
		if t.Kind() != reflect.Map || t.Key().Kind() != reflect.String {
			return errors.New(`only a map with string keys can be a "dir"`)
		}
		if l.required || l.hasDef {
			return errors.New(`a "dir" is neither required nor has it a default`)
		}
		return checkType(t.Elem())
	}
	if t.Kind() == reflect.Pointer && isGroup(t.Elem()) && !l.document {
		return errors.New(`a pointer to a struct cannot be filled from several keys: make it a struct, or one key with ",json"`)
	}
	if err := checkType(t); err != nil {
		return err
	}
	if l.required && l.hasDef {
		return errors.New("a required field needs no default")
	}
	if l.hasDef {
		return l.decode(item{value: []byte(l.def), origin: Defaults}, reflect.New(t).Elem())
	}
	return nil
}

// decode reads the value of a leaf.
func (l *leaf) decode(it item, v reflect.Value) (err error) {
	if p := told(func() {
		if l.document {
			err = decodeDocument(it.value, v.Addr().Interface(), l.form)
		} else {
			err = decodeItem(it, v, l.form)
		}
	}); p != nil {
		return exploded(p)
	}
	return err
}

// encode writes the value of a leaf.
func (l *leaf) encode(v reflect.Value) (b []byte, err error) {
	if p := told(func() {
		if l.document {
			b, err = encodeDocument(v.Interface(), l.form)
		} else {
			b, err = encode(v, l.form)
		}
	}); p != nil {
		return nil, p
	}
	return b, err
}

// tag is what the tags of a field say.
type tag struct {
	name     string
	named    bool
	skip     bool
	document bool
	dir      bool
	required bool
	def      string
	hasDef   bool
}

// parseTag reads `config:"name,required"` and `default:"value"`. Where the config tag has no name, that of the json tag
// holds.
func parseTag(sf reflect.StructField) (tag, error) {
	text, hasConfig := sf.Tag.Lookup("config")
	if text == "-" || (!hasConfig && sf.Tag.Get("json") == "-") {
		return tag{skip: true}, nil
	}
	name, rest, more := strings.Cut(text, ",")
	if jsonTag := sf.Tag.Get("json"); name == "" && jsonTag != "-" {
		name, _, _ = strings.Cut(jsonTag, ",")
	}
	t := tag{name: name, named: name != ""}
	t.def, t.hasDef = sf.Tag.Lookup("default")
	if !t.named {
		t.name = kebab(sf.Name)
	}
	for more {
		var word string
		word, rest, more = strings.Cut(rest, ",")
		switch word {
		case "required":
			t.required = true
		case "json":
			t.document = true
		case "dir":
			t.dir = true
		default:
			return t, invalid("the tag %q has %q, which is neither required, nor json, nor dir", text, word)
		}
	}
	return t, nil
}

// kebab is the name of a field without a tag: "MaxConns" is "max-conns", "HTTPPort" is "http-port".
func kebab(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if unicode.IsUpper(r) && i > 0 {
			lower := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if !unicode.IsUpper(runes[i-1]) || lower {
				b.WriteByte('-')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.ReplaceAll(b.String(), "_-", "_")
}
