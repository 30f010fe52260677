package watch

import (
	"cmp"
	"slices"
)

// coalescer keeps the latest change of each key.
type coalescer struct {
	latest map[string]coalescedChange
	pos    position
	total  int
	bytes  int64
}

// coalescedChange is the latest change of a key.
type coalescedChange struct {
	Event

	changes int // number of changes of the key
	order   int // index among all changes, since those of one revision are ordered too
}

func newCoalescer() *coalescer { return &coalescer{latest: make(map[string]coalescedChange)} }

// add adds the changes of one revision, which must be later than those added before.
func (f *coalescer) add(at position, events []Event) {
	f.pos = at
	for i := range events {
		e := &events[i]
		old, ok := f.latest[e.Key]
		if ok {
			f.bytes -= old.size()
		}
		f.bytes += e.size()
		f.total++
		f.latest[e.Key] = coalescedChange{Event: *e, changes: old.changes + 1, order: f.total}
	}
}

// batch returns the latest changes after a position of the same history, in the order in which they
// happened.
func (f *coalescer) batch(after position) Batch {
	var kept []coalescedChange
	folded := 0
	for _, e := range f.latest {
		if e.ModRevision > after.rev {
			kept = append(kept, e)
			folded += e.changes - 1
		}
	}
	slices.SortFunc(kept, func(x, y coalescedChange) int { return cmp.Compare(x.order, y.order) })
	b := Batch{Kind: Live, Revision: f.pos.rev, Events: make([]Event, len(kept)), Folded: folded}
	for i := range kept {
		b.Events[i] = kept[i].Event
	}
	return b
}
