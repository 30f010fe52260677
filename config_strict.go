package etcdkit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
	yamldoc "sigs.k8s.io/yaml/goyaml.v2"
)

// decodeStrict reads one JSON value that has no fields but those of out, and each of them once.
func decodeStrict(data []byte, out *Config) error {
	if err := checkFields(json.NewDecoder(bytes.NewReader(data)), true); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(out); err != nil && !errors.Is(err, io.EOF) {
		if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			got, _, _ := strings.Cut(kind.Value, " ") // what follows is the value
			return fmt.Errorf("field %q: %s where %s is meant", kind.Field, got, kind.Type)
		}
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the configuration")
	}
	return nil
}

// checkFields goes through one JSON value and refuses fields that come twice, of which the decoder would take the last,
// and secrets that are no string.
func checkFields(dec *json.Decoder, top bool) error {
	start, err := dec.Token()
	if errors.Is(err, io.EOF) {
		return nil // an empty file, or one that ends too early: the decoder tells
	}
	delim, nested := start.(json.Delim)
	if err != nil || !nested {
		return err
	}
	seen := map[string]bool{}
	for dec.More() {
		var secret string
		if delim == '{' {
			if secret, err = checkName(dec, seen); err != nil {
				return err
			}
		}
		if top && secret != "" {
			err = checkSecret(dec, secret)
		} else {
			err = checkFields(dec, false)
		}
		if err != nil {
			return err
		}
	}
	if _, err = dec.Token(); errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// checkName reads the name of a field, refuses it if it was seen, and returns it if it is that of a secret.
func checkName(dec *json.Decoder, seen map[string]bool) (secret string, err error) {
	key, err := dec.Token()
	if err != nil {
		return "", err
	}
	name, _ := key.(string)
	folded := strings.ToLower(strings.ToUpper(name)) // the decoder does not look at case either
	if seen[folded] {
		return "", fmt.Errorf("field %q is already set", name)
	}
	seen[folded] = true
	if folded == "password" || folded == "token" {
		return folded, nil
	}
	return "", nil
}

// checkSecret reads a value that has to be a string.
func checkSecret(dec *json.Decoder, field string) error {
	v, err := dec.Token()
	if _, ok := v.(string); err == nil && !ok {
		return notText(field)
	}
	return err
}

func notText(field string) error {
	return fmt.Errorf("field %q: a secret is a string (put it in quotes)", field)
}

// fromYAML turns one YAML document into JSON. Its errors quote nothing of the file, which may hold a password.
func fromYAML(data []byte) ([]byte, error) {
	out, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, withoutSource(err)
	}
	// sigs.k8s.io/yaml has looked at the first document only.
	docs := yamldoc.NewDecoder(bytes.NewReader(data))
	var ignored any
	if err := docs.Decode(&ignored); err == nil {
		err = docs.Decode(&ignored)
		if !errors.Is(err, io.EOF) {
			return nil, errors.New("yaml: something follows the configuration")
		}
	}
	// YAML takes these for a tag, an anchor or an alias, and drops them; more likely the secret begins with one.
	marked := regexp.MustCompile(`(?im)(?:^|[{,\s"'])(password|token)["']?\s*:\s*[!&*]`)
	if found := marked.FindSubmatch(data); found != nil {
		return nil, notText(strings.ToLower(string(found[1])))
	}
	return out, nil
}

// withoutSource says where and how YAML is wrong in words of our own: those of the parser may hold a value.
func withoutSource(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n  ")
	where := ""
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if n, _, ok := strings.Cut(rest, ": "); ok && strings.Trim(n, "0123456789") == "" {
			where = "line " + n + ": "
		}
	}
	for _, known := range []struct{ theirs, ours string }{
		{"already set in map", "a field is already set"},
		{"cannot decode", "a value is not of the type of its tag"},
		{"unknown anchor", "an alias is of nothing"},
		{"invalid map key", "the name of a field is no string"},
		{"did not find expected", "a bracket, comma or indentation is not where it belongs"},
		{"could not find expected", "a field has no colon"},
		{"mapping values are not allowed", "a colon is where none may be (quotes are missing?)"},
		{"cannot start any token", "a value begins with a character that needs quotes"},
		{"unexpected end of stream", "it ends in the middle of something"},
		{"tab character", "a tab is used for indentation"},
		{"control characters", "it holds control characters"},
		{"unknown escape character", "an escape in double quotes is unknown"},
	} {
		if strings.Contains(text, known.theirs) {
			return errors.New("yaml: " + where + known.ours)
		}
	}
	return errors.New("yaml: " + where + "it cannot be read")
}
