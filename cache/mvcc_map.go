package cache

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
)

// mvccMap is a map from keys to versions of their values, for one writer and any number of readers,
// which never wait.
//
// Each commit creates a snapshot, numbered from 1, with the changes of all keys since the last one.
// The versions of a snapshot have its number and are invisible to a reader that started before the
// commit; each points to the version it replaced. trim removes whatever no reader can see any more:
// the number and predecessor of a version once no reader uses an older snapshot, and a deleted key
// altogether. So a trimmed version is visible to every reader. A reader needs no lock: it loads the
// number of the snapshot first and then the version.
//
// The map uses open addressing with linear probing over pointers, which takes the least memory of
// all maps that readers can share with a writer. A slot changes from nil to a version, between
// versions of the same key, and to the tombstone. A slot with the tombstone may be reused for
// another key.
type mvccMap[T any] struct {
	seed      maphash.Seed
	slots     atomic.Pointer[slots[T]]
	snapshot  atomic.Uint64 // number of the last committed snapshot
	valid     atomic.Int64  // keys in snapshot whose value decodes
	invalid   atomic.Int64  // keys in snapshot whose value does not decode
	tombstone *version[T]   // its key is "", which no key is

	mu             sync.Mutex     // held by the writer, and to acquire or release a snapshot
	used           int            // slots that are not nil
	oversized      bool           // there are more slots than needed
	pendingValid   int64          // valid after the next commit
	pendingInvalid int64          // invalid after the next commit
	untrimmed      []*version[T]  // versions to be trimmed, oldest first
	readers        map[uint64]int // by snapshot
	// Shared by the versions since the last commit that replace nothing.
	newKeyMeta *versionMeta[T]

	initial *initialLoad[T] // until the first commit, else nil
}

// slots is the array of an mvccMap.
type slots[T any] struct {
	list []atomic.Pointer[version[T]]
}

// first returns the slot where the search for a key starts. The length need not be a power of two,
// so that a map can grow by less than itself.
func (s *slots[T]) first(seed maphash.Seed, key string) uint64 {
	hi, _ := bits.Mul64(maphash.String(seed, key), uint64(len(s.list)))
	return hi
}

// after returns the slot after i.
func (s *slots[T]) after(i uint64) uint64 {
	i++
	if i == uint64(len(s.list)) {
		return 0
	}
	return i
}

// A map grows by a quarter when more than three quarters of its slots are in use.
const (
	minSlots           = 16
	maxLoadNumerator   = 3
	maxLoadDenominator = 4
)

func newMVCCMap[T any]() *mvccMap[T] {
	m := &mvccMap[T]{seed: maphash.MakeSeed(), tombstone: &version[T]{}, readers: make(map[uint64]int)}
	m.slots.Store(newSlots[T](minSlots))
	return m
}

func newSlots[T any](n int) *slots[T] {
	return &slots[T]{list: make([]atomic.Pointer[version[T]], n)}
}

// get returns the current version of key, or nil if it is absent.
func (m *mvccMap[T]) get(key string) *version[T] {
	snapshot := m.snapshot.Load()
	return m.latest(key).at(snapshot)
}

// latest returns the newest version of key, or nil if there is none.
func (m *mvccMap[T]) latest(key string) *version[T] {
	if key == "" {
		return nil // the key of the tombstone
	}
	s := m.slots.Load()
	for i := s.first(m.seed, key); ; i = s.after(i) {
		v := s.list[i].Load()
		if v == nil || v.key == key {
			return v
		}
	}
}

// set makes v the newest version of its key, from the next commit on. The caller holds mu.
func (m *mvccMap[T]) set(v *version[T], meta versionMeta[T]) {
	if m.initial != nil {
		m.initial.add(v, meta)
		return
	}
	slot, old := m.slotFor(v.key)
	if old != nil {
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
		kept := meta // meta itself would be on the heap for every key
		v.meta.Store(&kept)
	}
	m.adjustCounts(v, 1)
	m.untrimmed = append(m.untrimmed, v)
	slot.Store(v)
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

// slotFor returns the slot of a key and its version, or a free slot and nil. It grows the map if
// necessary.
func (m *mvccMap[T]) slotFor(key string) (slot *atomic.Pointer[version[T]], old *version[T]) {
	s := m.slots.Load()
	var free *atomic.Pointer[version[T]]
	for i := s.first(m.seed, key); ; i = s.after(i) {
		slot = &s.list[i]
		switch v := slot.Load(); {
		case v == nil:
			if free != nil {
				return free, nil
			}
			if maxLoadDenominator*(m.used+1) > maxLoadNumerator*len(s.list) {
				m.grow(s)
				return m.slotFor(key)
			}
			m.used++
			return slot, nil
		case v == m.tombstone:
			if free == nil {
				free = slot
			}
		case v.key == key:
			return slot, v
		}
	}
}

// grow makes room: by a quarter, or by doubling the map if most of its versions are new since the
// last commit. commit gives back the excess of doubling.
func (m *mvccMap[T]) grow(s *slots[T]) {
	live := m.countUsed(s)
	size := len(s.list)
	switch {
	case 2*live < size: // the tombstones leave enough room
	case 2*len(m.untrimmed) > live:
		size *= 2
		m.oversized = true
	default:
		size += size/4 + 1
	}
	m.resize(s, size)
}

// countUsed returns the number of slots with a version.
func (m *mvccMap[T]) countUsed(s *slots[T]) (n int) {
	for i := range s.list {
		if v := s.list[i].Load(); v != nil && v != m.tombstone {
			n++
		}
	}
	return n
}

// resize copies all versions to new slots. Readers of the old ones are not affected.
func (m *mvccMap[T]) resize(s *slots[T], size int) {
	into := newSlots[T](size)
	m.used = 0
	for i := range s.list {
		if v := s.list[i].Load(); v != nil && v != m.tombstone {
			into.insert(m.seed, v)
			m.used++
		}
	}
	m.slots.Store(into)
}

// shrink gives back the slots that grow added in excess.
func (m *mvccMap[T]) shrink() {
	m.oversized = false
	s := m.slots.Load()
	if size := slotsFor(m.countUsed(s)); size < len(s.list)*9/10 {
		m.resize(s, size)
	}
}

// slotsFor returns the number of slots for n versions. Three of ten are left free.
func slotsFor(n int) int { return n*10/7 + minSlots }

// insert stores a version whose key has no slot yet.
func (s *slots[T]) insert(seed maphash.Seed, v *version[T]) {
	for i := s.first(seed, v.key); ; i = s.after(i) {
		if slot := &s.list[i]; slot.Load() == nil {
			slot.Store(v)
			return
		}
	}
}

// commit makes all changes since the last commit visible at once. The caller holds mu.
func (m *mvccMap[T]) commit() {
	m.newKeyMeta = nil
	if m.initial != nil {
		m.finishLoad()
	}
	if m.oversized {
		m.shrink()
	}
	m.snapshot.Add(1)
	m.valid.Store(m.pendingValid)
	m.invalid.Store(m.pendingInvalid)
}

// changes returns the newest version of each key changed by the last snapshot, with the one before
// it. nil stands for no value. The caller holds mu and has not called trim since the commit.
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
			if slot, latest := m.slotFor(v.key); latest == v {
				slot.Store(m.tombstone)
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
