package watch

import (
	"cmp"
	"slices"
)

// fold keeps the latest change of each key.
type fold struct {
	latest map[string]folded
	at     position
	total  int
	bytes  int64
}

// folded is the latest change of a key.
type folded struct {
	Event

	times int // number of changes of the key
	order int // index among all changes, since those of one revision are ordered too
}

func newFold() *fold { return &fold{latest: make(map[string]folded)} }

// add adds the changes of one revision, which must be later than those added before.
func (f *fold) add(at position, events []Event) {
	f.at = at
	for i := range events {
		e := &events[i]
		old, ok := f.latest[e.Key]
		if ok {
			f.bytes -= old.weight()
		}
		f.bytes += e.weight()
		f.total++
		f.latest[e.Key] = folded{Event: *e, times: old.times + 1, order: f.total}
	}
}

// batch returns the latest changes after a position of the same history, in the order in which they
// happened.
func (f *fold) batch(after position) Batch {
	var kept []folded
	left := 0
	for _, e := range f.latest {
		if e.ModRevision > after.rev {
			kept = append(kept, e)
			left += e.times - 1
		}
	}
	slices.SortFunc(kept, func(x, y folded) int { return cmp.Compare(x.order, y.order) })
	b := Batch{Kind: Live, Revision: f.at.rev, Events: make([]Event, len(kept)), Folded: left}
	for i := range kept {
		b.Events[i] = kept[i].Event
	}
	return b
}
