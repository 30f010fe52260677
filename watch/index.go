package watch

import (
	"slices"
)

// index is what a state watch has told its consumer: which keys there are, and as of which revision.
type index struct {
	keys  map[string]known
	round uint32 // of the current list
}

type known struct {
	rev   int64
	round uint32 // the last list that had the key
}

func newIndex() *index { return &index{keys: make(map[string]known)} }

// apply notes what the consumer is told.
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

// unchanged reports whether the consumer knows a listed key as of rev. It remembers that the list has the key.
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

// gone returns the keys, in order, that the consumer knows and the list did not have.
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
