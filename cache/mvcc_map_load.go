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

// finishLoad moves the versions of the load to the map. The caller holds mu.
func (m *mvccMap[T]) finishLoad() {
	loaded := m.initial.versions
	m.initial = nil
	m.versions.reserve(len(loaded))
	for _, v := range loaded {
		if old := m.latest(v.key); old != nil {
			m.adjustCounts(old, -1)
		}
		if v.isDeleted() {
			m.versions.remove(v.key)
			continue
		}
		m.versions.set(v)
		m.adjustCounts(v, 1)
	}
}
