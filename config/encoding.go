package config

import (
	"bytes"
	"encoding"
	"encoding/json"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/redact"
)

// encodingKind is the stored form of a type, as listed in the package documentation.
type encodingKind int

const (
	asDocument encodingKind = iota // JSON, or YAML if the key says so
	asPointer                      // as the element type
	asText                         // by UnmarshalText, and MarshalText if there is one
	asDuration
	asString
	asBool
	asInt
	asUint
	asFloat
	asBytes
)

// format holds what decoding needs to know besides the type.
type format struct {
	yaml   bool // documents are YAML
	strict bool // unknown fields are errors
}

// encodingOf returns the stored form of t.
func encodingOf(t reflect.Type) encodingKind {
	ptr := reflect.PointerTo(t)
	switch {
	case t.Kind() == reflect.Pointer:
		return asPointer
	case t == reflect.TypeFor[time.Duration]():
		return asDuration
	case ptr.Implements(reflect.TypeFor[encoding.TextMarshaler]()) && ptr.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return asText
	case ptr.Implements(reflect.TypeFor[json.Unmarshaler]()):
		return asDocument
	case ptr.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return asText
	}
	switch t.Kind() {
	case reflect.String:
		return asString
	case reflect.Bool:
		return asBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return asInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return asUint
	case reflect.Float32, reflect.Float64:
		return asFloat
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return asBytes
		}
	}
	return asDocument
}

// isScalar reports whether t is a number, a boolean, a duration or a pointer to one.
func isScalar(t reflect.Type) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch encodingOf(t) {
	case asDuration, asBool, asInt, asUint, asFloat:
		return true
	}
	return false
}

// checkType returns an error if no value can be decoded into t.
func checkType(t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if encodingOf(t) != asDocument {
		return nil
	}
	if t.Kind() == reflect.Interface && t.NumMethod() > 0 {
		return errs.Invalidf("cannot decode into the interface type %v", t)
	}
	var err error
	panicked := callSafely(func() { _, err = json.Marshal(reflect.New(t).Elem().Interface()) })
	_, no := err.(*json.UnsupportedTypeError) //nolint:errorlint // an error wrapped by a method concerns an element
	if panicked == nil && no {                // a method may reject its zero value
		return errs.Invalidf("%v cannot be stored: %w", t, err)
	}
	return nil
}

// decodeItem decodes an item into v. A list from the environment may be comma-separated, without
// brackets and quotes.
func decodeItem(it item, v reflect.Value, f format) error {
	text := strings.TrimSpace(string(it.value))
	isList := encodingOf(v.Type()) == asDocument && v.Kind() == reflect.Slice
	if it.origin != Environment || !isList || text == "" || text[0] == '[' {
		return decodeInto(it.value, v, f)
	}
	for part := range strings.SplitSeq(text, ",") {
		elem := reflect.New(v.Type().Elem()).Elem()
		if err := decodeInto([]byte(strings.TrimSpace(part)), elem, f); err != nil {
			return err
		}
		v.Set(reflect.Append(v, elem))
	}
	return nil
}

// decodeInto decodes b into v, which must be zero and is undefined after an error.
func decodeInto(b []byte, v reflect.Value, f format) error {
	text := string(bytes.TrimSpace(b)) // files and shells tend to add a newline
	switch kind := encodingOf(v.Type()); kind {
	case asPointer:
		v.Set(reflect.New(v.Type().Elem()))
		return decodeInto(b, v.Elem(), f)
	case asText:
		into, _ := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr())
		if err := into.UnmarshalText([]byte(text)); err != nil {
			return decoderError(v.Type().String(), err)
		}
		return nil
	case asDocument:
		return decodeDocument(b, v.Addr().Interface(), f)
	case asString:
		v.SetString(string(b))
		return nil
	case asBytes:
		v.SetBytes(bytes.Clone(b))
		return nil
	default:
		return decodeScalar(text, v, kind)
	}
}

// decodeScalar decodes a number, a boolean or a duration.
func decodeScalar(text string, v reflect.Value, kind encodingKind) (err error) {
	var message string
	switch kind {
	case asDuration:
		var d time.Duration
		d, err = time.ParseDuration(text)
		v.SetInt(int64(d))
		message = `not a duration such as "5s"`
	case asBool:
		var x bool
		x, err = strconv.ParseBool(text)
		v.SetBool(x)
		message = "neither true nor false"
	case asInt:
		var x int64
		x, err = strconv.ParseInt(text, 10, v.Type().Bits())
		v.SetInt(x)
		message = "not a whole number that fits " + v.Type().String()
	case asUint:
		var x uint64
		x, err = strconv.ParseUint(text, 10, v.Type().Bits())
		v.SetUint(x)
		message = "not a whole number that fits " + v.Type().String()
	default:
		var x float64
		x, err = strconv.ParseFloat(text, v.Type().Bits())
		v.SetFloat(x)
		message = "not a number that fits " + v.Type().String()
		if err == nil && (math.IsNaN(x) || math.IsInf(x, 0)) {
			return &decodeError{text: message}
		}
	}
	if err != nil {
		return &decodeError{text: message, cause: err}
	}
	return nil
}

// encode returns the stored form of v.
func encode(v reflect.Value, f format) ([]byte, error) {
	switch encodingOf(v.Type()) {
	case asPointer:
		if v.IsNil() {
			return nil, errs.Invalidf("a nil %v cannot be stored", v.Type())
		}
		return encode(v.Elem(), f)
	case asText:
		return encodeText(v)
	case asDuration:
		return []byte(time.Duration(v.Int()).String()), nil
	case asString:
		return []byte(v.String()), nil
	case asBool:
		return strconv.AppendBool(nil, v.Bool()), nil
	case asInt:
		return strconv.AppendInt(nil, v.Int(), 10), nil
	case asUint:
		return strconv.AppendUint(nil, v.Uint(), 10), nil
	case asFloat:
		if x := v.Float(); math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, errs.Invalidf("%v cannot be stored", x)
		}
		return strconv.AppendFloat(nil, v.Float(), 'g', -1, v.Type().Bits()), nil
	case asBytes:
		return bytes.Clone(v.Bytes()), nil
	default:
		return encodeDocument(v.Interface(), f)
	}
}

// encodeText encodes v with its MarshalText method. A secret is stored revealed, not redacted.
func encodeText(v reflect.Value) ([]byte, error) {
	addressable := reflect.New(v.Type())
	addressable.Elem().Set(v)
	if redact.Text(v.Type()) {
		if text, ok := redact.Reveal(addressable.Interface()); ok {
			return []byte(text), nil
		}
		return nil, errs.Invalidf("%v hides its value when it is encoded, and has no method Reveal() string", v.Type())
	}
	from, ok := reflect.TypeAssert[encoding.TextMarshaler](addressable)
	if !ok {
		return nil, errs.Invalidf("%v cannot be stored: it has no MarshalText method", v.Type())
	}
	b, err := from.MarshalText()
	return b, encoderError(err)
}

// encoderError wraps an error about the caller's own value.
func encoderError(err error) error {
	if err == nil {
		return nil
	}
	return errs.Invalidf("the value cannot be encoded: %w", err)
}
