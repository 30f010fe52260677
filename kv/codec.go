package kv

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strconv"

	"github.com/etcdkit/etcdkit/internal/redact"
)

// Codec turns values into bytes and back. It must be safe for concurrent use, and Decode must not keep b. A codec of
// your own is a type with these two methods.
//
// key is the key of the entry below the namespace of the store, the dir of the handle included: "users/42" for the key
// "42" of a [Typed] made with the dir "users", and for a cache or a configuration of that dir. Most codecs ignore it; one
// that encrypts can bind the value to it.
type Codec[T any] interface {
	Encode(key string, v T) ([]byte, error)
	Decode(key string, b []byte) (T, error)
}

// baseCodec returns the codec below the layers of c, which writes equal bytes for equal values.
func baseCodec[T any](c Codec[T]) Codec[T] {
	if layered, ok := c.(interface{ Base() Codec[T] }); ok {
		return layered.Base()
	}
	return c
}

// JSON stores values as encoding/json writes them. Fields that a stored value has and T has not are ignored.
//
// A type whose JSON hides its value, such as etcdkit.Secret, is not stored in T: writes return [ErrInvalid], because the
// value would be overwritten with "[redacted]". Reading is possible. Store such a value as a string, or with a codec of your
// own. What an interface in T holds is not checked.
func JSON[T any]() Codec[T] {
	path, hidden := redact.JSON(reflect.TypeFor[T]())
	if !hidden {
		return jsonCodec[T]{}
	}
	return jsonCodec[T]{err: &hiddenError{path: path}}
}

type jsonCodec[T any] struct {
	err error // why values cannot be encoded
}

// hiddenError refuses a type whose JSON hides a part of its value.
type hiddenError struct {
	path string // "" for the value itself
}

// Error names the part.
func (e *hiddenError) Error() string {
	what := "the value"
	if e.path != "" {
		what = "field " + strconv.Quote(e.path)
	}
	return what + " is hidden in JSON, so that storing it would lose it"
}

// Encode is json.Marshal.
func (c jsonCodec[T]) Encode(_ string, v T) ([]byte, error) {
	if c.err != nil {
		return nil, c.err
	}
	return json.Marshal(v)
}

// Decode is json.Unmarshal into a zero T.
func (jsonCodec[T]) Decode(_ string, b []byte) (v T, err error) {
	err = json.Unmarshal(b, &v)
	return v, err
}

// Bytes stores values as they are.
func Bytes() Codec[[]byte] { return bytesCodec{} }

type bytesCodec struct{}

// Encode returns v.
func (bytesCodec) Encode(_ string, v []byte) ([]byte, error) { return v, nil }

// Decode returns a copy of b.
func (bytesCodec) Decode(_ string, b []byte) ([]byte, error) { return bytes.Clone(b), nil }

// String stores text.
func String() Codec[string] { return stringCodec{} }

type stringCodec struct{}

// Encode returns the bytes of v.
func (stringCodec) Encode(_, v string) ([]byte, error) { return []byte(v), nil }

// Decode returns b as a string, valid UTF-8 or not.
func (stringCodec) Decode(_ string, b []byte) (string, error) { return string(b), nil }

// strictJSON decodes one JSON value, all of whose fields must be known, and nothing behind it.
func strictJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}
