package config

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// field is a struct field stored under a key of its own or, if dir is set, a map with one key per
// entry.
type field struct {
	name        string // key, relative to the directory
	index       []int
	goName      string // Go name, for error messages
	format      format
	document    bool // always JSON, whatever the type
	dir         bool
	scalar      bool // dir only: entries are numbers, booleans or durations
	required    bool
	defaultText string
	hasDefault  bool
}

// schema maps the keys below a directory to the fields of a struct.
type schema struct {
	fields []field
	byName map[string]int
	dirs   []int // fields with dir set
}

// newSchema returns the schema of t, or an error that joins everything wrong with t.
func newSchema(t reflect.Type, strict bool) (*schema, error) {
	if t.Kind() != reflect.Struct {
		return nil, errs.Invalidf("%v is not a struct", t)
	}
	s := &schema{byName: make(map[string]int)}
	var validationErrs []error
	s.addFields(t, "", nil, format{strict: strict}, nil, &validationErrs)
	for i, l := range s.fields {
		if l.dir {
			s.dirs = append(s.dirs, i)
		}
		if err := s.register(i); err != nil {
			validationErrs = append(validationErrs, err)
		}
	}
	if len(s.fields) == 0 && len(validationErrs) == 0 {
		validationErrs = append(validationErrs, errs.Invalidf("%v has no settable field", t))
	}
	return s, errors.Join(validationErrs...)
}

// register adds a field to byName. It returns an error if its key is invalid, taken, or below a
// map's.
func (s *schema) register(i int) error {
	l := s.fields[i]
	if err := keyspace.Name(l.name); err != nil {
		return errs.Invalidf("field %s: %w", l.goName, err)
	}
	if other, taken := s.byName[l.name]; taken {
		return errs.Invalidf("fields %s and %s have the same key %q", s.fields[other].goName, l.goName, l.name)
	}
	s.byName[l.name] = i
	for j, other := range s.fields {
		if j != i && other.dir && strings.HasPrefix(l.name, other.name+"/") {
			return errs.Invalidf("field %s lies below %q, which is field %s", l.goName, other.name+"/", other.goName)
		}
	}
	return nil
}

// addFields adds the fields of struct t, whose keys start with prefix.
func (s *schema) addFields(t reflect.Type, prefix string, index []int, f format, above []string, validationErrs *[]error) {
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, err := parseTag(sf)
		path := append(slices.Clip(above), sf.Name)
		if err != nil {
			*validationErrs = append(*validationErrs, errs.Invalidf("field %s: %w", strings.Join(path, "."), err))
			continue
		}
		at := append(slices.Clip(index), i)
		group := isNested(sf.Type) && !tag.document
		switch {
		case tag.skip, !sf.IsExported() && !sf.Anonymous:
		case !sf.IsExported() && sf.Type.Kind() == reflect.Pointer && isNested(sf.Type.Elem()):
			err := errs.Invalidf("field %s: a pointer to a struct of an unexported type cannot be set: embed the struct", strings.Join(path, "."))
			*validationErrs = append(*validationErrs, err)
		case !sf.IsExported() && !group:
		case group && sf.Anonymous && !tag.named:
			s.addFields(sf.Type, prefix, at, f, path, validationErrs)
		case group && (tag.required || tag.hasDefault):
			err := errs.Invalidf("field %s: a struct with keys of its own cannot be required or have a default", strings.Join(path, "."))
			*validationErrs = append(*validationErrs, err)
		case group: // includes embedded structs of unexported types, whose fields are settable
			s.addFields(sf.Type, prefix+tag.name+"/", at, f, path, validationErrs)
		default:
			l := field{
				name: prefix + tag.name, index: at, goName: strings.Join(path, "."), format: f, document: tag.document,
				dir: tag.dir, required: tag.required, defaultText: tag.defaultText, hasDefault: tag.hasDefault,
			}
			l.format.yaml = isYAMLKey(l.name)
			if l.dir && sf.Type.Kind() == reflect.Map {
				l.scalar = isScalar(sf.Type.Elem())
			}
			if err := l.check(sf.Type); err != nil {
				*validationErrs = append(*validationErrs, errs.Invalidf("field %s: %w", l.goName, err))
			}
			s.fields = append(s.fields, l)
		}
	}
}

// isNested reports whether t is a struct whose fields have keys of their own, that is, one that
// does not decode itself.
func isNested(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && encodingOf(t) == asDocument &&
		!reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
}

// check returns an error if no value can be decoded into t or if the default is invalid.
func (f *field) check(t reflect.Type) error {
	if f.dir {
		if t.Kind() != reflect.Map || t.Key().Kind() != reflect.String {
			return errors.New(`only a map with string keys can be a "dir"`)
		}
		if f.required || f.hasDefault {
			return errors.New(`a "dir" cannot be required or have a default`)
		}
		return checkType(t.Elem())
	}
	if t.Kind() == reflect.Pointer && isNested(t.Elem()) && !f.document {
		return errors.New(`a pointer to a struct cannot be filled from several keys: make it a struct, or one key with ",json"`)
	}
	if err := checkType(t); err != nil {
		return err
	}
	if f.required && f.hasDefault {
		return errors.New("a required field needs no default")
	}
	if f.hasDefault {
		return f.decode(item{value: []byte(f.defaultText), origin: Defaults}, reflect.New(t).Elem())
	}
	return nil
}

// decode decodes the value of a field into v.
func (f *field) decode(it item, v reflect.Value) (err error) {
	if p := callSafely(func() {
		if f.document {
			err = decodeDocument(it.value, v.Addr().Interface(), f.format)
		} else {
			err = decodeItem(it, v, f.format)
		}
	}); p != nil {
		return panicError(p)
	}
	return err
}

// encode returns the stored form of v.
func (f *field) encode(v reflect.Value) (b []byte, err error) {
	if p := callSafely(func() {
		if f.document {
			b, err = encodeDocument(v.Interface(), f.format)
		} else {
			b, err = encode(v, f.format)
		}
	}); p != nil {
		return nil, p
	}
	return b, err
}

// tag is a parsed struct tag.
type tag struct {
	name        string
	named       bool
	skip        bool
	document    bool
	dir         bool
	required    bool
	defaultText string
	hasDefault  bool
}

// parseTag parses `config:"name,required"` and `default:"value"`. Without a name in the config tag,
// the json tag's name is used.
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
	t.defaultText, t.hasDefault = sf.Tag.Lookup("default")
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
			return t, errs.Invalidf("the tag %q has %q, want required, json or dir", text, word)
		}
	}
	return t, nil
}

// kebab returns the key of an untagged field: "MaxConns" becomes "max-conns", "HTTPPort" becomes
// "http-port".
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
