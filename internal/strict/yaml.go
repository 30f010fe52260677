package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"sigs.k8s.io/yaml"
	yamlnode "sigs.k8s.io/yaml/goyaml.v3"
)

// Aliases may expand every document to minExpansion bytes, and a larger one to maxExpansion times
// its size.
const (
	minExpansion = 1 << 20
	maxExpansion = 4
)

// YAMLToJSON converts one YAML document to JSON. An empty document becomes null. It returns an
// error for a field that is set twice, a second document, aliases that expand too much, and a
// mapping whose keys are not strings or numbers.
func YAMLToJSON(b []byte) ([]byte, error) {
	if _, err := parse(b); err != nil {
		return nil, err
	}
	return convert(b)
}

// convert converts a document that [parse] has accepted.
func convert(b []byte) ([]byte, error) {
	out, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		return nil, yamlError(err)
	}
	return out, nil
}

// parse returns the top node of the only document in b, or nil if there is none.
func parse(b []byte) (*yamlnode.Node, error) {
	d := yamlnode.NewDecoder(bytes.NewReader(b))
	var doc, next yamlnode.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil //nolint:nilnil // an empty document has no node
	} else if err != nil {
		return nil, yamlError(err)
	}
	if err := d.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, errors.New("YAML: something follows the document")
	}
	e := aliasExpansion{sizes: make(map[*yamlnode.Node]int), limit: max(minExpansion, maxExpansion*len(b))}
	if err := e.check(&doc); err != nil {
		return nil, err
	}
	if len(doc.Content) == 0 {
		return nil, nil //nolint:nilnil // likewise
	}
	return doc.Content[0], nil
}

// aliasExpansion computes the size of a document whose aliases are replaced by their values.
type aliasExpansion struct {
	sizes   map[*yamlnode.Node]int // of the values of aliases; 0 while being computed
	aliases bool
	limit   int
}

func (e *aliasExpansion) check(doc *yamlnode.Node) error {
	size, err := e.size(doc)
	if err == nil && e.aliases && size > e.limit {
		err = fmt.Errorf("YAML: its aliases expand to more than %d bytes", e.limit)
	}
	return err
}

// nodeSize is the size of a node without its text.
const nodeSize = 16

func (e *aliasExpansion) size(n *yamlnode.Node) (int, error) {
	if n.Kind == yamlnode.AliasNode {
		e.aliases = true
		size, known := e.sizes[n.Alias]
		if known && size == 0 {
			return 0, fmt.Errorf("YAML: line %d: an alias is part of what it stands for", n.Line)
		} else if known {
			return size, nil
		}
		n = n.Alias
	}
	if n.Anchor != "" {
		e.sizes[n] = 0
	}
	size := nodeSize + len(n.Value)
	for _, part := range n.Content {
		more, err := e.size(part)
		if err != nil {
			return 0, err
		}
		size = min(size+more, e.limit+1) // prevents an overflow
	}
	if n.Anchor != "" {
		e.sizes[n] = size
	}
	return size, nil
}

// yamlError describes an error of the parser without its text, which may quote a value.
func yamlError(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n  ")
	where := ""
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if n, _, ok := strings.Cut(rest, ": "); ok && strings.Trim(n, "0123456789") == "" {
			where = "line " + n + ": "
		}
	}
	for _, known := range []struct{ parser, text string }{
		{"already set in map", "a field is already set"},
		{"cannot decode", "a value is not of the type of its tag"},
		{"unknown anchor", "an alias has no anchor"},
		{"invalid map key", "the name of a field is no string"},
		{"unsupported map key", "the name of a field is no string"},
		{"did not find expected", "a bracket, comma or indentation is not where it belongs"},
		{"could not find expected", "a field has no colon"},
		{"mapping values are not allowed", "a colon is where none may be (quotes are missing?)"},
		{"cannot start any token", "a value begins with a character that needs quotes"},
		{"unexpected end of stream", "it ends too early"},
		{"tab character", "a tab is used for indentation"},
		{"control characters", "it holds control characters"},
		{"unknown escape character", "an escape in double quotes is unknown"},
	} {
		if strings.Contains(text, known.parser) {
			return errors.New("YAML: " + where + known.text)
		}
	}
	return errors.New("YAML: " + where + "syntax error")
}
