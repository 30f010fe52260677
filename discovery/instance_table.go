package discovery

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// entry is an instance of a view.
type entry struct {
	*Instance

	held time.Time // gone, and shown until then; zero while it is there
}

// table holds the instances of a view by ID. It remembers which of them have changed since the last
// list was made, so that the next list costs a copy and no sorting.
type table struct {
	entries map[string]*entry
	held    int // entries that are gone and still shown
	changed map[string]struct{}
}

func newTable() table {
	return table{entries: map[string]*entry{}, changed: map[string]struct{}{}}
}

// options replaces the entry of an ID. A nil entry removes it.
func (t *table) set(id string, e *entry) {
	if old := t.entries[id]; old != nil && !old.held.IsZero() {
		t.held--
	}
	t.changed[id] = struct{}{}
	if e == nil {
		delete(t.entries, id)
		return
	}
	t.entries[id] = e
	if !e.held.IsZero() {
		t.held++
	}
}

// present returns how many instances are there, those that are held back not included.
func (t *table) present() int { return len(t.entries) - t.held }

// merge returns the instances in the order of their IDs and reports whether they differ from old,
// which is what it returned before. Instances that are equal stay the same pointers.
func (t *table) merge(old []*Instance) (list []*Instance, differs bool) {
	changed := slices.Sorted(maps.Keys(t.changed))
	clear(t.changed)
	list = make([]*Instance, 0, len(t.entries))
	for _, id := range changed {
		at, found := slices.BinarySearchFunc(old, id, func(i *Instance, id string) int { return strings.Compare(i.ID, id) })
		list = append(list, old[:at]...)
		old = old[at:]
		var before, now *Instance
		if found {
			before, old = old[0], old[1:]
		}
		if e := t.entries[id]; e != nil {
			now = e.Instance
		}
		switch {
		case before != nil && now != nil && before.same(now):
			list = append(list, before)
			continue
		case now != nil:
			list = append(list, now)
		}
		differs = differs || before != nil || now != nil
	}
	return append(list, old...), differs
}
