package cache

// load collects the first step of a table. No reader sees the table before that step is committed,
// so its nodes need no history, and the map is built once with the required size.
type load[T any] struct {
	nodes []*node[T] // in order of arrival; the last one of a key counts
}

// put adds n to the load.
func (l *load[T]) put(n *node[T], m more[T]) {
	if m.keep {
		kept := m // m itself would be on the heap for every key
		n.more.Store(&kept)
	}
	l.nodes = append(l.nodes, n)
}

// begin makes the current step a load. The table must be empty.
func (t *table[T]) begin() {
	t.loading = &load[T]{}
}

// settle builds the map from the nodes of a load. The caller holds mu.
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
