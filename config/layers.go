package config

import (
	"bytes"
	"maps"
	"slices"
	"strings"
)

// item is the value of a key in one layer. Its bytes are never changed.
type item struct {
	value  []byte
	rev    int64
	origin Origin
	name   string // of the file or variable

	mapping bool // a mapping of the fallback file, whose fields are items, too
	nested  bool // such a field
}

// keyedItem is an item with its key.
type keyedItem struct {
	key string
	item
}

// layer is the items of one origin, by key.
type layer map[string]item

// layers is what a source knows, the strongest first. etcd is what etcd has said, or the state file in its place.
type layers struct {
	env      envVars
	etcd     layer
	fallback layer
}

// lookup returns the item of key that is in force.
func (l *layers) lookup(key string) (item, bool) {
	if it, ok := l.env.lookup(key); ok {
		return it, true
	}
	if it, ok := l.etcd[key]; ok {
		return it, true
	}
	it, ok := l.fallback[key]
	return it, ok
}

// keys returns, in order, the keys below dir that etcd or the fallback file has; "" is all of them. Those that are
// fields of a mapping in the fallback file are among them if nested is true. A key that only the environment has cannot
// be told from its variable.
func (l *layers) keys(dir string, nested bool) []string {
	set := make(map[string]struct{}, len(l.etcd)+len(l.fallback))
	for _, in := range []layer{l.etcd, l.fallback} {
		for key, it := range in {
			if strings.HasPrefix(key, dir) && (nested || !it.nested) {
				set[key] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// size is how many keys there are.
func (l *layers) size() int {
	n := len(l.etcd)
	for key, it := range l.fallback {
		if _, both := l.etcd[key]; !both && !it.nested {
			n++
		}
	}
	return n
}

// pick returns the pieces that are in force of those keys that are there.
func (l *layers) pick(keys []string) []keyedItem {
	out := make([]keyedItem, 0, len(keys))
	for _, key := range keys {
		if it, ok := l.lookup(key); ok {
			out = append(out, keyedItem{key, it})
		}
	}
	return out
}

// sameValues reports whether two collections of pieces are of the same bytes.
func sameValues(a, b []keyedItem) bool {
	return slices.EqualFunc(a, b, func(x, y keyedItem) bool { return x.key == y.key && bytes.Equal(x.value, y.value) })
}

// hasReportedBad says that a piece cannot be used.
func (p keyedItem) badValue(err error) *BadValueError {
	return &BadValueError{Key: p.key, Revision: p.rev, Origin: p.origin, Err: err}
}

// commonOrigin returns where pieces come from that are only bad together: the origin that may have changed last, where they
// have several.
func commonOrigin(items []keyedItem) Origin {
	for _, o := range []Origin{Live, StateFile, FallbackFile, Environment} {
		if slices.ContainsFunc(items, func(p keyedItem) bool { return p.origin == o }) {
			return o
		}
	}
	return Defaults
}
