package kv

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"

	"github.com/etcdkit/etcdkit/internal/redact"
)

// Codec encodes values to bytes and decodes them. Implementations must be safe for concurrent use,
// and Decode must not retain b.
//
// key is the key of the entry relative to the namespace of the store, including the dir of the
// handle: "users/42" for the key "42" of a [Typed] with the dir "users". The same holds for a cache
// or a configuration of that dir. Most codecs ignore key; one that encrypts can bind the value to
// it. Package kv/codec adds compression and encryption to a codec.
type Codec[T any] interface {
	Encode(key string, v T) ([]byte, error)
	Decode(key string, b []byte) (T, error)
}

// baseCodec returns the codec below the layers of c. It encodes equal values to equal bytes.
func baseCodec[T any](c Codec[T]) Codec[T] {
	if layered, ok := c.(interface{ Base() Codec[T] }); ok {
		return layered.Base()
	}
	return c
}

// JSON stores values as encoding/json encodes them. Fields of a stored value that T does not have
// are ignored.
//
// If T contains a type whose JSON hides its value, such as etcdkit.Secret, writes return
// [ErrInvalid], because the stored value would be overwritten with "[redacted]". Reads work. Store
// such a value as a string, or with a custom codec. The dynamic values of interfaces in T are not
// checked.
func JSON[T any]() Codec[T] {
	path, redacted := redact.JSON(reflect.TypeFor[T]())
	if !redacted {
		return jsonCodec[T]{}
	}
	return jsonCodec[T]{err: &redactedError{path: path}}
}

type jsonCodec[T any] struct {
	err error // why values cannot be encoded, or nil
}

// redactedError is the error for a type whose JSON hides a part of its value.
type redactedError struct {
	path string // "" for the value itself
}

// Error returns a text that names the part.
func (e *redactedError) Error() string {
	what := "the value"
	if e.path != "" {
		what = "field " + strconv.Quote(e.path)
	}
	return what + " is hidden in JSON and would be lost"
}

// Encode returns the JSON of v.
func (c jsonCodec[T]) Encode(_ string, v T) ([]byte, error) {
	if c.err != nil {
		return nil, c.err
	}
	return json.Marshal(v)
}

// Decode decodes b into a zero T.
func (jsonCodec[T]) Decode(_ string, b []byte) (v T, err error) {
	err = json.Unmarshal(b, &v)
	return v, err
}

// Bytes stores values unchanged.
func Bytes() Codec[[]byte] { return bytesCodec{} }

type bytesCodec struct{}

// Encode returns v.
func (bytesCodec) Encode(_ string, v []byte) ([]byte, error) { return v, nil }

// Decode returns a copy of b.
func (bytesCodec) Decode(_ string, b []byte) ([]byte, error) { return bytes.Clone(b), nil }

// String stores strings unchanged.
func String() Codec[string] { return stringCodec{} }

type stringCodec struct{}

// Encode returns the bytes of v.
func (stringCodec) Encode(_, v string) ([]byte, error) { return []byte(v), nil }

// Decode returns b as a string, even if it is not valid UTF-8.
func (stringCodec) Decode(_ string, b []byte) (string, error) { return string(b), nil }
