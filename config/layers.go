package config

import (
	"bytes"
	"maps"
	"slices"
	"strings"
)

// item is the value of a key in one layer. Its bytes are immutable.
type item struct {
	value  []byte
	rev    int64
	origin Origin
	name   string // file or environment variable

	mapping bool // fallback file only: a mapping, whose fields are items as well
	nested  bool // fallback file only: a field of a mapping
}

// keyedItem is an item with its key.
type keyedItem struct {
	key string
	item
}

// layer holds the items of one origin by key.
type layer map[string]item

// layers holds all items. If several layers have a key, the first one wins.
type layers struct {
	env      envVars
	etcd     layer // the state of etcd or, until that is loaded, of the state file
	fallback layer // the fallback file
}

// lookup returns the effective item of key.
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

// keys returns the sorted keys below dir in the etcd and fallback layers. If nested is true, they
// include the fields of mappings in the fallback file. Keys set by the environment only are
// missing, because a variable's name does not determine its key.
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

// size returns the number of keys in the etcd and fallback layers, without the fields of mappings.
func (l *layers) size() int {
	n := len(l.etcd)
	for key, it := range l.fallback {
		if _, both := l.etcd[key]; !both && !it.nested {
			n++
		}
	}
	return n
}

// pick returns the effective items of those keys that exist.
func (l *layers) pick(keys []string) []keyedItem {
	out := make([]keyedItem, 0, len(keys))
	for _, key := range keys {
		if it, ok := l.lookup(key); ok {
			out = append(out, keyedItem{key, it})
		}
	}
	return out
}

// sameValues reports whether a and b have equal keys and bytes.
func sameValues(a, b []keyedItem) bool {
	return slices.EqualFunc(a, b, func(x, y keyedItem) bool { return x.key == y.key && bytes.Equal(x.value, y.value) })
}

// badValue returns an error about the item.
func (p keyedItem) badValue(err error) *BadValueError {
	return &BadValueError{Key: p.key, Revision: p.rev, Origin: p.origin, Err: err}
}

// commonOrigin returns the origin to report for items that are invalid only in combination. If they
// have several origins, it returns the one that is most likely to have changed last.
func commonOrigin(items []keyedItem) Origin {
	for _, o := range []Origin{Live, StateFile, FallbackFile, Environment} {
		if slices.ContainsFunc(items, func(p keyedItem) bool { return p.origin == o }) {
			return o
		}
	}
	return Defaults
}
