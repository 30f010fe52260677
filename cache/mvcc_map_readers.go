package cache

import (
	"cmp"
	"slices"
)

// acquire returns the number of the last committed snapshot and keeps it readable until release.
func (m *mvccMap[T]) acquire() (snapshot uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.acquireLocked()
}

// acquireLocked is acquire for callers that hold mu.
func (m *mvccMap[T]) acquireLocked() uint64 {
	snapshot := m.snapshot.Load()
	m.readers[snapshot]++
	return snapshot
}

// release ends the use of a snapshot.
func (m *mvccMap[T]) release(snapshot uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.readers[snapshot]--
	if m.readers[snapshot] == 0 {
		delete(m.readers, snapshot)
		m.trim()
	}
}

// list returns every version of an acquired snapshot whose value decodes, in key order.
func (m *mvccMap[T]) list(snapshot uint64) []*version[T] {
	var out []*version[T]
	for v := range m.versions.all {
		if v = v.at(snapshot); v != nil && v.decodeErr() == nil {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *version[T]) int { return cmp.Compare(a.key, b.key) })
	return out
}

// keys returns all keys, including changes since the last commit. The caller holds mu.
func (m *mvccMap[T]) keys() (out []string) {
	for v := range m.versions.all {
		if !v.isDeleted() {
			out = append(out, v.key)
		}
	}
	return out
}
