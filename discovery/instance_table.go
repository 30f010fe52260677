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

	held time.Time // until when the instance is held back, if it is lost
}

// table holds the instances of a view by ID. It tracks which have changed since the last merge, so
// that a merge costs a copy and no sorting.
type table struct {
	entries map[string]*entry
	held    int // number of entries held back
	changed map[string]struct{}
}

func newTable() table {
	return table{entries: map[string]*entry{}, changed: map[string]struct{}{}}
}

// set replaces the entry of an ID. A nil entry removes it.
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

// present returns the number of instances, without those held back.
func (t *table) present() int { return len(t.entries) - t.held }

// merge returns the instances sorted by ID and reports whether they differ from old, which must be
// the previous result. Unchanged instances keep their pointers.
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
