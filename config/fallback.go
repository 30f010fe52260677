package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	yamldoc "sigs.k8s.io/yaml/goyaml.v2"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// readFallback reads the user's file: a flat mapping from keys to values.
func readFallback(path string) (layer, time.Time, error) {
	b, err := os.ReadFile(path) //nolint:gosec // the path is the caller's
	if err != nil {
		return nil, time.Time{}, invalid("WithFallbackFile: %w", err)
	}
	var written time.Time
	if st, err := os.Stat(path); err == nil {
		written = st.ModTime()
	}
	l, err := parseFallback(b, strings.EqualFold(filepath.Ext(path), ".json"))
	if err != nil {
		return nil, time.Time{}, invalid("WithFallbackFile: %s: %w", path, err)
	}
	for key, it := range l {
		it.name = path
		l[key] = it
	}
	return l, written, nil
}

// parseFallback makes items of a document.
func parseFallback(b []byte, isJSON bool) (layer, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return layer{}, nil
	}
	if !isJSON {
		if err := textKeys(b); err != nil {
			return nil, err
		}
		var err error
		if b, err = yamlToJSON(b); err != nil {
			return nil, err
		}
	}
	values, err := mapping(b)
	if err != nil {
		return nil, err
	}
	out := make(layer, len(values))
	for key, raw := range values {
		if err := keyspace.Name(key); err != nil {
			return nil, err
		}
		text := []byte(raw)
		switch raw[0] {
		case 'n':
			return nil, fmt.Errorf("key %q is null: leave it out to have none", key)
		case '"':
			var s string
			if err := json.Unmarshal(raw, &s); err != nil {
				return nil, undecoded("JSON", err)
			}
			text = []byte(s)
		}
		out[key] = item{value: text, origin: FallbackFile}
	}
	return out, nil
}

// textKeys refuses YAML keys that are no text, such as "on", which YAML reads as true.
func textKeys(b []byte) error {
	var top yamldoc.MapSlice
	if err := yamldoc.Unmarshal(b, &top); err != nil {
		return nil //nolint:nilerr // another reader will say what is wrong
	}
	for _, entry := range top {
		if _, ok := entry.Key.(string); !ok {
			return &decodeError{why: fmt.Sprintf("the key %v is no text for YAML: put it in quotes", entry.Key)}
		}
	}
	return nil
}

// mapping reads one JSON object, none of whose fields comes twice.
func mapping(b []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil {
		return nil, undecoded("JSON", err)
	} else if t != json.Delim('{') {
		if t == nil { // an empty YAML document
			return map[string]json.RawMessage{}, nil
		}
		return nil, &decodeError{why: "it is no mapping from keys to values"}
	}
	out := make(map[string]json.RawMessage)
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, undecoded("JSON", err)
		}
		key, _ := name.(string)
		if _, twice := out[key]; twice {
			return nil, &decodeError{why: fmt.Sprintf("key %q is set twice", key)}
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, undecoded("JSON", err)
		}
		out[key] = raw
	}
	if _, err := d.Token(); err != nil {
		return nil, undecoded("JSON", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, &decodeError{why: "something follows the mapping"}
	}
	return out, nil
}
