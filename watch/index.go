package watch

import (
	"slices"
)

// index is the state that a state watch has delivered: the keys and their revisions.
type index struct {
	keys  map[string]known
	round uint32 // number of the current list
}

type known struct {
	rev   int64
	round uint32 // number of the last list that contained the key
}

func newIndex() *index { return &index{keys: make(map[string]known)} }

// apply updates the index with delivered events.
func (x *index) apply(events []Event) {
	for i := range events {
		if e := &events[i]; e.Type == Delete {
			delete(x.keys, e.Key)
		} else {
			x.keys[e.Key] = known{rev: e.ModRevision, round: x.round}
		}
	}
}

// begin starts a list.
func (x *index) begin() { x.round++ }

// unchanged reports whether the consumer knows key at revision rev. It records that the current
// list contains the key.
func (x *index) unchanged(key []byte, rev int64) bool {
	k, ok := x.keys[string(key)]
	if !ok {
		return false
	}
	if k.round != x.round {
		k.round = x.round
		x.keys[string(key)] = k
	}
	return k.rev == rev
}

// gone returns the keys that the consumer knows and the current list did not contain, sorted.
func (x *index) gone() []string {
	var out []string
	for key, k := range x.keys {
		if k.round != x.round {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}
