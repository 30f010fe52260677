package strict

import (
	"reflect"

	yamlnode "sigs.k8s.io/yaml/goyaml.v3"
)

// checkNode rejects secrets that YAML would change because they begin with the character of a tag,
// an anchor or an alias. n may be nil.
func checkNode(n *yamlnode.Node, t reflect.Type, field string) error {
	t = derefType(t)
	if n == nil || t == nil || isCustom(t) {
		return nil
	}
	switch n.Kind {
	case yamlnode.AliasNode:
		return checkNode(n.Alias, t, field)
	case yamlnode.SequenceNode:
		elem := elemType(t, reflect.Slice, reflect.Array)
		for _, part := range n.Content {
			if err := checkSecretNode(part, elem, field); err != nil {
				return err
			}
		}
	case yamlnode.MappingNode:
		fields, elem := fieldsByName(t), elemType(t, reflect.Map)
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, child := n.Content[i].Value, elem
			if fields != nil {
				child = fields[fold(name)].typ
			}
			if err := checkSecretNode(n.Content[i+1], child, joinPath(field, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkSecretNode(n *yamlnode.Node, t reflect.Type, field string) error {
	if t = derefType(t); t == nil || !isSecret(t) {
		return checkNode(n, t, field)
	}
	if n.Kind != yamlnode.ScalarNode || n.Anchor != "" || n.Style&yamlnode.TaggedStyle != 0 {
		return notStringError(field)
	}
	return nil
}
