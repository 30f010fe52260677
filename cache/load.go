package cache

// load is what the first step of a table brings. Nobody can look at the table before that step is taken, so its nodes need
// no past, and the map is built once, in the size that it needs.
type load[T any] struct {
	nodes []*node[T] // in the order they came; a later one of a key counts
}

// put keeps n for the end of the load.
func (l *load[T]) put(n *node[T], m more[T]) {
	if m.keep {
		kept := m // m itself would be on the heap for every key
		n.more.Store(&kept)
	}
	l.nodes = append(l.nodes, n)
}

// begin makes the step that is being made a load: nothing may have been put into the table.
func (t *table[T]) begin() {
	t.loading = &load[T]{}
}

// settle puts into the map what a load has brought. The caller holds mu.
func (t *table[T]) settle() {
	nodes := t.loading.nodes
	t.loading = nil
	t.slots.Store(newSlots[T](roomFor(len(nodes))))
	for _, n := range nodes {
		at, old := t.place(n.key)
		if old != nil {
			t.count(old, -1)
		}
		if n.isGone() {
			n = t.tomb
		}
		at.Store(n)
		if n != t.tomb {
			t.count(n, 1)
		}
	}
}
