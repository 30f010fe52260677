package strict

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/etcdkit/etcdkit/internal/redact"
)

// Names determines how the names of fields must be spelled.
type Names int

const (
	// AnyCase accepts the names of fields in any case, as encoding/json does.
	AnyCase Names = iota
	// ExactCase rejects a name in a different case as an unknown field.
	ExactCase
)

// UnmarshalYAML decodes one YAML document in the same way as [UnmarshalJSON]. An empty document
// leaves into unchanged. A secret that YAML would interpret as a tag, an anchor or an alias is an
// error.
func UnmarshalYAML(b []byte, into any, names Names) error {
	top, err := parse(b)
	if err != nil {
		return err
	}
	out, err := convert(b)
	if err != nil {
		return err
	}
	if err := checkNode(top, reflect.TypeOf(into), ""); err != nil {
		return fmt.Errorf("YAML: %w", err)
	}
	return unmarshal(out, into, names, "YAML: ")
}

// UnmarshalJSON decodes one JSON value into the value that into points to. It returns an error for
// unknown or repeated fields, and for secrets that are not strings.
func UnmarshalJSON(b []byte, into any, names Names) error { return unmarshal(b, into, names, "JSON: ") }

func unmarshal(b []byte, into any, names Names, format string) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return errors.New(format + Describe(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New(format + "something follows the value")
	}
	c := checker{dec: json.NewDecoder(bytes.NewReader(raw)), names: names}
	if err := c.value(reflect.TypeOf(into), ""); err != nil {
		return fmt.Errorf("%s%w", format, err)
	}
	dec = json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return errors.New(format + Describe(err))
	}
	return nil
}

// checker checks JSON against the type that it will be decoded into.
type checker struct {
	dec   *json.Decoder
	names Names
}

// value checks the next value. t is nil if its type is not known.
func (c *checker) value(t reflect.Type, field string) error {
	t = derefType(t)
	if isCustom(t) {
		return c.customValue(t, field)
	}
	start, err := c.dec.Token()
	if err != nil {
		return errors.New(Describe(err))
	}
	switch start {
	case json.Delim('{'):
		err = c.object(t, field)
	case json.Delim('['):
		elem := elemType(t, reflect.Slice, reflect.Array)
		for err == nil && c.dec.More() {
			err = c.value(elem, field)
		}
	default:
		return nil
	}
	if err != nil {
		return err
	}
	if _, err = c.dec.Token(); err != nil {
		return errors.New(Describe(err))
	}
	return nil
}

// object checks the fields of an object.
func (c *checker) object(t reflect.Type, field string) error {
	fields, elem := fieldsByName(t), elemType(t, reflect.Map)
	seen := make(map[string]bool)
	for c.dec.More() {
		token, err := c.dec.Token()
		if err != nil {
			return errors.New(Describe(err))
		}
		name, _ := token.(string)
		id, child := name, elem
		if fields != nil {
			id = fold(name) // like the decoder
			f, known := fields[id]
			if c.names == ExactCase && (!known || f.name != name) {
				return fmt.Errorf("unknown field %q", name)
			}
			child = f.typ
		}
		if seen[id] {
			return fmt.Errorf("field %q is already set", name)
		}
		seen[id] = true
		if err := c.value(child, joinPath(field, name)); err != nil {
			return err
		}
	}
	return nil
}

// customValue checks a value of a type that decodes itself.
func (c *checker) customValue(t reflect.Type, field string) error {
	var raw json.RawMessage
	if err := c.dec.Decode(&raw); err != nil {
		return errors.New(Describe(err))
	}
	if isSecret(t) && raw[0] != '"' {
		return notStringError(field)
	}
	if err := (&checker{dec: json.NewDecoder(bytes.NewReader(raw))}).value(nil, field); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, reflect.New(t).Interface()); err != nil {
		text := describeCustom(err, t, raw)
		if field != "" {
			text = fmt.Sprintf("field %q: %s", field, text)
		}
		return errors.New(text)
	}
	return nil
}

// joinPath returns the path of a field within another.
func joinPath(field, name string) string { return strings.TrimPrefix(field+"."+name, ".") }

func notStringError(field string) error {
	return fmt.Errorf("field %q: a secret is a string (put it in quotes)", field)
}

// derefType removes all pointers from t.
func derefType(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// isCustom reports whether t decodes itself.
func isCustom(t reflect.Type) bool {
	if t == nil {
		return false
	}
	ptr := reflect.PointerTo(t)
	return ptr.Implements(reflect.TypeFor[json.Unmarshaler]()) || ptr.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// isSecret reports whether t hides its value when it is encoded.
func isSecret(t reflect.Type) bool {
	if !isCustom(t) {
		return false
	}
	_, hidden := redact.JSON(t)
	return hidden
}

// elemType returns the type of the elements of t if t has one of the given kinds, and otherwise
// nil.
func elemType(t reflect.Type, kinds ...reflect.Kind) reflect.Type {
	if t == nil {
		return nil
	}
	for _, kind := range kinds {
		if t.Kind() == kind {
			return t.Elem()
		}
	}
	return nil
}

// structField is a field with the name that encoding/json uses.
type structField struct {
	name string
	typ  reflect.Type
}

// fieldsByName returns the fields of a struct by their folded names. It returns nil for other
// types.
func fieldsByName(t reflect.Type) map[string]structField {
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	out := make(map[string]structField)
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || f.Tag.Get("json") == "-" || (f.Anonymous && name == "" && derefType(f.Type).Kind() == reflect.Struct) {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if _, taken := out[fold(name)]; !taken {
			out[fold(name)] = structField{name, f.Type}
		}
	}
	return out
}

// fold returns the same text for names that differ only in case.
func fold(name string) string { return strings.ToLower(strings.ToUpper(name)) }
