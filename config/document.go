package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"

	"sigs.k8s.io/yaml"
	yamldoc "sigs.k8s.io/yaml/goyaml.v2"

	"github.com/etcdkit/etcdkit/internal/redact"
	"github.com/etcdkit/etcdkit/kv"
)

// JSON stores values as encoding/json writes them, whatever their type: also text, numbers and durations. See
// [WithCodec].
func JSON[T any]() kv.Codec[T] { return documentCodec[T]{} }

// YAML stores values as YAML, whatever their type. Fields go by their json tags. See [WithCodec].
func YAML[T any]() kv.Codec[T] { return documentCodec[T]{form{yaml: true}} }

type documentCodec[T any] struct{ form form }

// Encode writes JSON or YAML.
func (c documentCodec[T]) Encode(v T) ([]byte, error) { return encodeDocument(v, c.form) }

// Decode reads what Encode has written.
func (c documentCodec[T]) Decode(b []byte) (v T, err error) {
	err = decodeDocument(b, &v, c.form)
	return v, err
}

// isYAML reports whether the documents at a key are YAML.
func isYAML(key string) bool {
	return strings.HasSuffix(key, ".yaml") || strings.HasSuffix(key, ".yml")
}

// decodeDocument reads one JSON or YAML document.
func decodeDocument(b []byte, into any, f form) error {
	what := "JSON"
	if f.yaml {
		what = "YAML"
		var err error
		if b, err = yamlToJSON(b); err != nil {
			return err
		}
	}
	if !f.strict {
		if err := json.Unmarshal(b, into); err != nil {
			return undecoded(what, err)
		}
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return undecoded(what, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &decodeError{why: what + ": something follows the value"}
	}
	return nil
}

// yamlToJSON makes JSON of one YAML document. Fields that come twice are refused.
func yamlToJSON(b []byte) ([]byte, error) {
	out, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		return nil, notYAML(err)
	}
	// The conversion has looked at the first document only.
	docs := yamldoc.NewDecoder(bytes.NewReader(b))
	var ignored any
	if err := docs.Decode(&ignored); err == nil {
		if err := docs.Decode(&ignored); !errors.Is(err, io.EOF) {
			return nil, &decodeError{why: "YAML: a second document follows"}
		}
	}
	return out, nil
}

// notYAML says where a document is no YAML; the parser's own words may quote it.
func notYAML(err error) error {
	_, rest, found := strings.Cut(err.Error(), "line ")
	line, _, _ := strings.Cut(rest, ":")
	why := "YAML: syntax error"
	if strings.Contains(err.Error(), "already set in map") {
		why = "YAML: a field is set twice"
	}
	if found && line != "" && strings.Trim(line, "0123456789") == "" {
		why += " in line " + line
	}
	return &decodeError{why: why, cause: err}
}

// encodeDocument writes one JSON or YAML document.
func encodeDocument(v any, f form) ([]byte, error) {
	if path, hidden := hiddenPart(v); hidden {
		if path != "" {
			return nil, invalid("field %s hides its value when it is encoded: give it a key of its own", path)
		}
		return nil, invalid("%T hides its value when it is encoded", v)
	}
	if f.yaml {
		b, err := yaml.Marshal(v)
		return b, unencoded(err)
	}
	b, err := json.Marshal(v)
	return b, unencoded(err)
}

// hiddenPart returns the part of v whose value its JSON hides.
func hiddenPart(v any) (path string, hidden bool) {
	if v == nil {
		return "", false
	}
	return redact.JSON(reflect.TypeOf(v))
}
