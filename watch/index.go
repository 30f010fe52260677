package watch

import (
	"slices"
)

// index is the state that a state watch has delivered: the keys and their revisions.
type index struct {
	keys map[string]indexedKey
	list uint32 // number of the current list
}

type indexedKey struct {
	rev  int64
	list uint32 // number of the last list that contained the key
}

func newIndex() *index { return &index{keys: make(map[string]indexedKey)} }

// apply updates the index with delivered events.
func (x *index) apply(events []Event) {
	for i := range events {
		if e := &events[i]; e.Type == Delete {
			delete(x.keys, e.Key)
		} else {
			x.keys[e.Key] = indexedKey{rev: e.ModRevision, list: x.list}
		}
	}
}

// startList starts a list.
func (x *index) startList() { x.list++ }

// unchanged reports whether the consumer knows key at revision rev. It records that the current
// list contains the key.
func (x *index) unchanged(key []byte, rev int64) bool {
	k, ok := x.keys[string(key)]
	if !ok {
		return false
	}
	if k.list != x.list {
		k.list = x.list
		x.keys[string(key)] = k
	}
	return k.rev == rev
}

// deletedKeys returns the keys that the consumer knows and the current list did not contain,
// sorted.
func (x *index) deletedKeys() []string {
	var out []string
	for key, k := range x.keys {
		if k.list != x.list {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}
