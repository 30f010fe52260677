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

// field is a field that has a key of its own, or, if it is a dir, a map with a key for each entry.
type field struct {
	name        string // below the dir
	index       []int
	goName      string // as Go has it, for messages
	format      format
	document    bool // JSON, whatever the type
	dir         bool
	scalar      bool // of a dir: each entry is a number, a boolean or a duration
	required    bool
	defaultText string
	hasDefault  bool
}

// schema says which keys below a dir fill which fields of a struct.
type schema struct {
	fields []field
	byName map[string]int
	dirs   []int // leaves that are maps
}

// newSchema makes the plan of a type; all that is wrong with it is the error.
func newSchema(t reflect.Type, strict bool) (*schema, error) {
	if t.Kind() != reflect.Struct {
		return nil, invalid("%v is no struct", t)
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
		validationErrs = append(validationErrs, invalid("%v has no field that can be set", t))
	}
	return s, errors.Join(validationErrs...)
}

// register enters a leaf under its name, which must be its own.
func (s *schema) register(i int) error {
	l := s.fields[i]
	if err := keyspace.Name(l.name); err != nil {
		return invalid("field %s: %w", l.goName, err)
	}
	if other, taken := s.byName[l.name]; taken {
		return invalid("fields %s and %s have the same key %q", s.fields[other].goName, l.goName, l.name)
	}
	s.byName[l.name] = i
	for j, other := range s.fields {
		if j != i && other.dir && strings.HasPrefix(l.name, other.name+"/") {
			return invalid("field %s lies below %q, which is field %s", l.goName, other.name+"/", other.goName)
		}
	}
	return nil
}

// addFields makes leaves of the fields of a struct that lies at prefix.
func (s *schema) addFields(t reflect.Type, prefix string, index []int, f format, above []string, validationErrs *[]error) {
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, err := parseTag(sf)
		path := append(slices.Clip(above), sf.Name)
		if err != nil {
			*validationErrs = append(*validationErrs, invalid("field %s: %w", strings.Join(path, "."), err))
			continue
		}
		at := append(slices.Clip(index), i)
		group := isNested(sf.Type) && !tag.document
		switch {
		case tag.skip, !sf.IsExported() && !sf.Anonymous:
		case !sf.IsExported() && sf.Type.Kind() == reflect.Pointer && isNested(sf.Type.Elem()):
			err := invalid("field %s: a pointer to a struct of an unexported type cannot be set: embed the struct", strings.Join(path, "."))
			*validationErrs = append(*validationErrs, err)
		case !sf.IsExported() && !group:
		case group && sf.Anonymous && !tag.named:
			s.addFields(sf.Type, prefix, at, f, path, validationErrs)
		case group && (tag.required || tag.hasDefault):
			err := invalid("field %s: a struct of keys is neither required nor has it a default", strings.Join(path, "."))
			*validationErrs = append(*validationErrs, err)
		case group: // also an embedded one of an unexported type: its fields can be set
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
				*validationErrs = append(*validationErrs, invalid("field %s: %w", l.goName, err))
			}
			s.fields = append(s.fields, l)
		}
	}
}

// isNested reports whether a type is a struct whose fields have keys of their own, and not one that reads itself.
func isNested(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && encodingOf(t) == asDocument &&
		!reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
}

// check refuses fields that nothing can be decoded into, and defaults that are bad values.
func (f *field) check(t reflect.Type) error {
	if f.dir {
		if t.Kind() != reflect.Map || t.Key().Kind() != reflect.String {
			return errors.New(`only a map with string keys can be a "dir"`)
		}
		if f.required || f.hasDefault {
			return errors.New(`a "dir" is neither required nor has it a default`)
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

// decode reads the value of a leaf.
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

// encode writes the value of a leaf.
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

// tag is what the tags of a field say.
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
