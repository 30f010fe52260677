package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	yamldoc "sigs.k8s.io/yaml/goyaml.v2"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/strict"
)

// readFallback reads the fallback file, a mapping from keys to values.
func readFallback(path string) (layer, time.Time, error) {
	b, err := os.ReadFile(path) //nolint:gosec // the path is the caller's
	if err != nil {
		return nil, time.Time{}, errs.Invalidf("WithFallbackFile: %w", err)
	}
	var written time.Time
	if st, err := os.Stat(path); err == nil {
		written = st.ModTime()
	}
	l, err := parseFallback(b, strings.EqualFold(filepath.Ext(path), ".json"))
	if err != nil {
		return nil, time.Time{}, errs.Invalidf("WithFallbackFile: %s: %w", path, err)
	}
	for key, it := range l {
		it.name = path
		l[key] = it
	}
	return l, written, nil
}

// parseFallback converts a document to items.
func parseFallback(b []byte, isJSON bool) (layer, error) {
	out := make(layer)
	if len(bytes.TrimSpace(b)) == 0 {
		return out, nil
	}
	if !isJSON {
		doc, err := strict.YAMLToJSON(b)
		if err != nil {
			return nil, &decodeError{text: err.Error()}
		}
		if err := checkTextKeys(b); err != nil {
			return nil, err
		}
		if b = doc; string(b) == "null" { // only comments
			return out, nil
		}
	}
	var values map[string]json.RawMessage
	if bytes.TrimSpace(b)[0] != '{' {
		return nil, &decodeError{text: "not a mapping from keys to values"}
	}
	if err := strict.UnmarshalJSON(b, &values, strict.ExactCase); err != nil {
		return nil, &decodeError{text: err.Error()}
	}
	for key, raw := range values {
		if err := keyspace.Name(key); err != nil {
			return nil, err
		}
		if raw[0] == 'n' {
			return nil, fmt.Errorf("key %q is null: leave it out to have none", key)
		}
		if err := out.addFallback(key, raw, false); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// addFallback adds the value of key and, if it is a mapping, its fields. nested is set for such a
// field.
func (l layer) addFallback(key string, raw json.RawMessage, nested bool) error {
	if _, taken := l[key]; taken {
		return &decodeError{text: fmt.Sprintf("key %q is set twice", key)}
	}
	it := item{value: raw, origin: FallbackFile, nested: nested}
	switch raw[0] {
	case '"':
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return decoderError("JSON", err)
		}
		it.value = []byte(s)
	case '{':
		it.mapping = true
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return decoderError("JSON", err)
		}
		for name, field := range fields {
			below := key + "/" + name
			if keyspace.Name(below) != nil || field[0] == 'n' {
				continue // part of the document, but not a key
			}
			if err := l.addFallback(below, field, true); err != nil {
				return err
			}
		}
	}
	l[key] = it
	return nil
}

// checkTextKeys returns an error if YAML reads a key as something other than text, such as "on",
// which is a boolean.
func checkTextKeys(b []byte) error {
	var top yamldoc.MapSlice
	if err := yamldoc.Unmarshal(b, &top); err != nil {
		return nil //nolint:nilerr // the caller's parser reports the error
	}
	for _, entry := range top {
		if _, ok := entry.Key.(string); !ok {
			return &decodeError{text: fmt.Sprintf("YAML key %v is not a string: quote it", entry.Key)}
		}
	}
	return nil
}
