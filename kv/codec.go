package kv

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// Codec turns values into bytes and back. It must be safe for concurrent use, and Decode must not keep b. A codec of
// your own is a type with these two methods.
type Codec[T any] interface {
	Encode(v T) ([]byte, error)
	Decode(b []byte) (T, error)
}

// JSON stores values as encoding/json writes them. Fields that a stored value has and T has not are ignored.
func JSON[T any]() Codec[T] { return jsonCodec[T]{} }

type jsonCodec[T any] struct{}

// Encode is json.Marshal.
func (jsonCodec[T]) Encode(v T) ([]byte, error) { return json.Marshal(v) }

// Decode is json.Unmarshal into a zero T.
func (jsonCodec[T]) Decode(b []byte) (v T, err error) {
	err = json.Unmarshal(b, &v)
	return v, err
}

// Bytes stores values as they are.
func Bytes() Codec[[]byte] { return bytesCodec{} }

type bytesCodec struct{}

// Encode returns v.
func (bytesCodec) Encode(v []byte) ([]byte, error) { return v, nil }

// Decode returns a copy of b.
func (bytesCodec) Decode(b []byte) ([]byte, error) { return bytes.Clone(b), nil }

// String stores text.
func String() Codec[string] { return stringCodec{} }

type stringCodec struct{}

// Encode returns the bytes of v.
func (stringCodec) Encode(v string) ([]byte, error) { return []byte(v), nil }

// Decode returns b as a string, valid UTF-8 or not.
func (stringCodec) Decode(b []byte) (string, error) { return string(b), nil }

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
