package cache

// initialLoad collects the first snapshot of an mvccMap. No reader sees the map before the first
// commit, so its versions need no history, and the slots are allocated once with the required size.
type initialLoad[T any] struct {
	versions []*version[T] // in order of arrival; the last one of a key counts
}

// add adds a version to the load.
func (l *initialLoad[T]) add(v *version[T], meta versionMeta[T]) {
	if meta.permanent {
		kept := meta // meta itself would be on the heap for every key
		v.meta.Store(&kept)
	}
	l.versions = append(l.versions, v)
}

// startLoad starts an initial load. The map must be empty.
func (m *mvccMap[T]) startLoad() {
	m.initial = &initialLoad[T]{}
}

// finishLoad fills the slots with the versions of the load. The caller holds mu.
func (m *mvccMap[T]) finishLoad() {
	versions := m.initial.versions
	m.initial = nil
	m.slots.Store(newSlots[T](slotsFor(len(versions))))
	for _, v := range versions {
		slot, old := m.slotFor(v.key)
		if old != nil {
			m.adjustCounts(old, -1)
		}
		if v.isDeleted() {
			v = m.tombstone
		}
		slot.Store(v)
		if v != m.tombstone {
			m.adjustCounts(v, 1)
		}
	}
}
