package cache

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// mvccMap is a map from keys to versions of their values, for one writer and any number of readers.
// Readers never wait.
//
// Each commit creates a snapshot, numbered from 1, with all changes since the previous one. A new
// version has the number of its snapshot and points to the version it replaced, for readers of
// older snapshots. A reader needs no lock: it loads the number of the snapshot first and then the
// version.
//
// Once no reader uses a snapshot older than a version, trim removes the version's number and its
// pointer to the replaced version, or, if the version marks a deleted key, the key. A version
// without a number is visible to every reader.
type mvccMap[T any] struct {
	versions concurrentMap[version[T], *version[T]] // the newest of each key
	snapshot atomic.Uint64                          // number of the last committed snapshot
	valid    atomic.Int64                           // keys in snapshot whose value decodes
	invalid  atomic.Int64                           // keys in snapshot whose value does not decode

	mu             sync.Mutex     // held by the writer, and to acquire or release a snapshot
	pendingValid   int64          // valid after the next commit
	pendingInvalid int64          // invalid after the next commit
	untrimmed      []*version[T]  // versions to be trimmed, oldest first
	readers        map[uint64]int // number of readers by snapshot
	// newKeyMeta is shared by the versions since the last commit that replace nothing.
	newKeyMeta *versionMeta[T]

	initial *initialLoad[T] // until the first commit, else nil
}

// maxMVCCLoad is the maximum load of the concurrentMap of an mvccMap. It is high because an mvccMap
// may hold many keys: slots take 11 to 14 bytes per key.
const maxMVCCLoad = 75

func newMVCCMap[T any]() *mvccMap[T] {
	m := &mvccMap[T]{readers: make(map[uint64]int)}
	m.versions.init(maxMVCCLoad)
	return m
}

// get returns the current version of key, or nil if it is absent.
func (m *mvccMap[T]) get(key string) *version[T] {
	snapshot := m.snapshot.Load()
	return m.latest(key).at(snapshot)
}

// latest returns the newest version of key, or nil if there is none.
func (m *mvccMap[T]) latest(key string) *version[T] { return m.versions.get(key) }

// set makes v the newest version of its key, from the next commit on. The caller holds mu.
func (m *mvccMap[T]) set(v *version[T], meta versionMeta[T]) {
	if m.initial != nil {
		m.initial.add(v, meta)
		return
	}
	if old := m.latest(v.key); old != nil {
		meta.previous = old
		m.adjustCounts(old, -1)
	}
	meta.snapshot = m.snapshot.Load() + 1
	if meta.previous == nil && !meta.permanent {
		if m.newKeyMeta == nil {
			m.newKeyMeta = &versionMeta[T]{snapshot: meta.snapshot}
		}
		v.meta.Store(m.newKeyMeta)
	} else {
		kept := meta // a pointer to meta itself would move it to the heap for every key
		v.meta.Store(&kept)
	}
	m.adjustCounts(v, 1)
	m.untrimmed = append(m.untrimmed, v)
	m.versions.set(v)
}

// remove deletes a key, from the next commit on. The caller holds mu.
func (m *mvccMap[T]) remove(key string, rev int64) {
	if m.initial == nil && m.latest(key).isDeleted() {
		return
	}
	m.set(&version[T]{key: key, modRevision: rev}, versionMeta[T]{deleted: true, permanent: true})
}

// adjustCounts adds d to the count that v belongs to.
func (m *mvccMap[T]) adjustCounts(v *version[T], d int64) {
	switch {
	case v.isDeleted():
	case v.decodeErr() != nil:
		m.pendingInvalid += d
	default:
		m.pendingValid += d
	}
}

// commit makes all changes since the last commit visible at once. The caller holds mu.
func (m *mvccMap[T]) commit() {
	m.newKeyMeta = nil
	if m.initial != nil {
		m.finishLoad()
	}
	m.snapshot.Add(1)
	m.valid.Store(m.pendingValid)
	m.invalid.Store(m.pendingInvalid)
}

// changes returns the versions before and after the last snapshot of each key that it changed. nil
// stands for a key that is absent or whose value does not decode. snapshot is the number of the
// last snapshot. The caller holds mu and has not called trim since the commit.
func (m *mvccMap[T]) changes(snapshot uint64) (before, after []*version[T]) {
	first := len(m.untrimmed)
	for first > 0 && m.untrimmed[first-1].meta.Load().snapshot == snapshot {
		first--
	}
	for _, v := range m.untrimmed[first:] {
		meta := v.meta.Load()
		if m.latest(v.key) != v {
			continue // changed again in the same snapshot
		}
		old := meta.previous.at(snapshot - 1)
		if old != nil && old.decodeErr() != nil {
			old = nil
		}
		now := v
		if meta.deleted || meta.decodeErr != nil {
			now = nil
		}
		if old != nil || now != nil {
			before, after = append(before, old), append(after, now)
		}
	}
	return before, after
}

// trim removes everything that no reader can see any more. The caller holds mu.
func (m *mvccMap[T]) trim() {
	oldest := m.snapshot.Load()
	for snapshot := range m.readers {
		oldest = min(oldest, snapshot)
	}
	trimmed := 0
	for _, v := range m.untrimmed {
		meta := v.meta.Load()
		if meta.snapshot > oldest {
			break
		}
		trimmed++
		switch {
		case meta.deleted:
			if m.latest(v.key) == v {
				m.versions.remove(v.key)
			}
		case meta.permanent:
			kept := *meta
			kept.snapshot, kept.previous = 0, nil
			v.meta.Store(&kept)
		default:
			v.meta.Store(nil)
		}
	}
	clear(m.untrimmed[:trimmed])
	if m.untrimmed = m.untrimmed[trimmed:]; len(m.untrimmed) == 0 {
		m.untrimmed = nil
	}
}

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

// initialLoad collects the first snapshot of an mvccMap. No reader sees the map before the first
// commit, so its versions need no history, and the slots are allocated once with the required size.
type initialLoad[T any] struct {
	versions []*version[T] // in order of arrival; the last one of a key counts
}

// add adds a version to the load.
func (l *initialLoad[T]) add(v *version[T], meta versionMeta[T]) {
	if meta.permanent {
		kept := meta // a pointer to meta itself would move it to the heap for every key
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
