package config

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/redact"
	"github.com/etcdkit/etcdkit/internal/strict"
	"github.com/etcdkit/etcdkit/kv"
)

// JSON returns a codec that stores any value as JSON, including text, numbers and durations. See
// [WithCodec].
func JSON[T any]() kv.Codec[T] { return documentCodec[T]{} }

// YAML returns a codec that stores any value as YAML. Fields are named by their json tags. See
// [WithCodec].
func YAML[T any]() kv.Codec[T] { return documentCodec[T]{format{yaml: true}} }

type documentCodec[T any] struct{ format format }

// Encode encodes v as JSON or YAML.
func (c documentCodec[T]) Encode(_ string, v T) ([]byte, error) { return encodeDocument(v, c.format) }

// Decode decodes JSON or YAML.
func (c documentCodec[T]) Decode(_ string, b []byte) (v T, err error) {
	err = decodeDocument(b, &v, c.format)
	return v, err
}

// isYAMLKey reports whether documents stored under key are YAML.
func isYAMLKey(key string) bool {
	return strings.HasSuffix(key, ".yaml") || strings.HasSuffix(key, ".yml")
}

// decodeDocument decodes a JSON or YAML document. Empty documents and null are errors.
func decodeDocument(b []byte, into any, f format) error {
	doc, format := b, "JSON"
	if f.yaml {
		format = "YAML"
		var err error
		if doc, err = strict.YAMLToJSON(b); err != nil {
			return &decodeError{text: err.Error()}
		}
	}
	if string(bytes.TrimSpace(doc)) == "null" {
		return &decodeError{text: format + ": empty or null"}
	}
	var err error
	switch {
	case !f.strict:
		if err = json.Unmarshal(doc, into); err != nil {
			return decoderError(format, err)
		}
		return nil
	case f.yaml:
		err = strict.UnmarshalYAML(b, into, strict.AnyCase)
	default:
		err = strict.UnmarshalJSON(b, into, strict.AnyCase)
	}
	if err != nil {
		return &decodeError{text: err.Error()}
	}
	return nil
}

// encodeDocument encodes v as a JSON or YAML document.
func encodeDocument(v any, f format) ([]byte, error) {
	if path, hidden := hiddenPart(v); hidden {
		if path != "" {
			return nil, errs.Invalidf("field %s hides its value when it is encoded: give it a key of its own", path)
		}
		return nil, errs.Invalidf("%T hides its value when it is encoded", v)
	}
	var b []byte
	var err error
	if f.yaml {
		b, err = yaml.Marshal(v)
	} else {
		b, err = json.Marshal(v)
	}
	if err != nil {
		return nil, encoderError(err)
	}
	if string(bytes.TrimSpace(b)) != "null" {
		return b, nil
	}
	switch reflect.ValueOf(v).Kind() { // null could not be decoded
	case reflect.Slice:
		return bytes.Replace(b, []byte("null"), []byte("[]"), 1), nil
	case reflect.Map:
		return bytes.Replace(b, []byte("null"), []byte("{}"), 1), nil
	}
	return nil, errs.Invalidf("a nil %T cannot be stored", v)
}

// hiddenPart returns the first part of v whose JSON form does not reveal its value.
func hiddenPart(v any) (path string, hidden bool) {
	if v == nil {
		return "", false
	}
	return redact.JSON(reflect.TypeOf(v))
}
