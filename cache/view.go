package cache

import (
	"cmp"
	"slices"
)

// view starts a view of the last committed step. The caller must call end.
func (t *table[T]) view() (step uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.look()
}

// look is view for callers that hold mu.
func (t *table[T]) look() uint64 {
	step := t.step.Load()
	t.views[step]++
	return step
}

// end ends a view.
func (t *table[T]) end(step uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.views[step]--
	if t.views[step] == 0 {
		delete(t.views, step)
		t.cut()
	}
}

// all returns every node of a viewed step whose value decodes, in key order.
func (t *table[T]) all(step uint64) []*node[T] {
	s := t.slots.Load()
	var out []*node[T]
	for i := range s.list {
		n := s.list[i].Load()
		if n == nil || n == t.tomb {
			continue
		}
		if n = n.at(step); n != nil && n.badness() == nil {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *node[T]) int { return cmp.Compare(a.key, b.key) })
	return out
}

// keys returns all keys in the current step. The caller holds mu.
func (t *table[T]) keys() (out []string) {
	s := t.slots.Load()
	for i := range s.list {
		if n := s.list[i].Load(); n != t.tomb && !n.isGone() {
			out = append(out, n.key)
		}
	}
	return out
}
