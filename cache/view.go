package cache

import (
	"cmp"
	"slices"
)

// view begins to look at the last step that was taken. end must be called.
func (t *table[T]) view() (step uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.look()
}

// look is view for who holds mu.
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

// all returns every good node after a step that is being looked at, in key order.
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

// keys returns all keys that are there in the step that is being made. The caller holds mu.
func (t *table[T]) keys() (out []string) {
	s := t.slots.Load()
	for i := range s.list {
		if n := s.list[i].Load(); n != t.tomb && !n.isGone() {
			out = append(out, n.key)
		}
	}
	return out
}
