package cache

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

// concurrentMap is a map of elements, each of which contains its key. Any number of readers may use
// it during a write, and never wait. The caller must serialize the methods that change the map.
//
// It uses open addressing with linear probing over pointers, which takes little memory. A slot is
// nil until an element is stored in it, and is never nil again. A new element of the same key
// replaces the old one in the same slot. Removing an element replaces it by the tombstone, and the
// slot may then be reused for another key.
type concurrentMap[E any, P element[E]] struct {
	seed      maphash.Seed
	slots     atomic.Pointer[slots[E]]
	maxLoad   int // percentage of the slots in use above which the map grows
	used      int // slots that are not nil
	size      int // elements
	tombstone *E  // its key is "", which no key is
}

// element is a pointer to an element of a concurrentMap.
type element[E any] interface {
	*E
	mapKey() string
}

// slots is the array of a concurrentMap.
type slots[E any] []atomic.Pointer[E]

// minSlots is the number of slots of an empty map.
const minSlots = 16

// first returns the index where the search for a key starts. The length need not be a power of two,
// so that a map can grow by less than itself.
func (s slots[E]) first(seed maphash.Seed, key string) uint64 {
	hi, _ := bits.Mul64(maphash.String(seed, key), uint64(len(s)))
	return hi
}

// after returns the index after i.
func (s slots[E]) after(i uint64) uint64 {
	i++
	if i == uint64(len(s)) {
		return 0
	}
	return i
}

// init makes the map ready for use. maxLoad is a percentage: a lower one makes reads faster, a
// higher one saves memory.
func (m *concurrentMap[E, P]) init(maxLoad int) {
	m.seed, m.tombstone, m.maxLoad = maphash.MakeSeed(), new(E), maxLoad
	m.resize(minSlots)
}

// get returns the element of key, or nil if there is none.
func (m *concurrentMap[E, P]) get(key string) *E {
	if key == "" {
		return nil // the key of the tombstone
	}
	s := *m.slots.Load()
	for i := s.first(m.seed, key); ; i = s.after(i) {
		e := s[i].Load()
		if e == nil || P(e).mapKey() == key {
			return e
		}
	}
}

// all yields all elements, in no particular order.
func (m *concurrentMap[E, P]) all(yield func(*E) bool) {
	s := *m.slots.Load()
	for i := range s {
		if e := s[i].Load(); e != nil && e != m.tombstone && !yield(e) {
			return
		}
	}
}

// set stores an element under its key.
func (m *concurrentMap[E, P]) set(e *E) {
	key := P(e).mapKey()
	slot, free := m.find(key)
	if slot == nil {
		if free.Load() == nil {
			if n := len(*m.slots.Load()); 100*(m.used+1) > m.maxLoad*n {
				m.grow(n)
				_, free = m.find(key)
			}
			m.used++
		}
		m.size++
		slot = free
	}
	slot.Store(e)
}

// remove removes the element of key.
func (m *concurrentMap[E, P]) remove(key string) {
	if slot, _ := m.find(key); slot != nil {
		slot.Store(m.tombstone)
		m.size--
	}
}

// find returns the slot of key. If there is none, slot is nil and free is the slot to use.
func (m *concurrentMap[E, P]) find(key string) (slot, free *atomic.Pointer[E]) {
	s := *m.slots.Load()
	for i := s.first(m.seed, key); ; i = s.after(i) {
		slot = &s[i]
		switch e := slot.Load(); {
		case e == nil && free == nil:
			return nil, slot
		case e == nil:
			return nil, free
		case e != m.tombstone && P(e).mapKey() == key:
			return slot, nil
		case e == m.tombstone && free == nil:
			free = slot
		}
	}
}

// grow makes room for another element in n slots: by a quarter, or by dropping the tombstones if
// that is enough.
func (m *concurrentMap[E, P]) grow(n int) {
	if 2*100*m.size >= m.maxLoad*n {
		n += n/4 + 1
	}
	m.resize(n)
}

// reserve makes room for n elements and a few more. The map must be empty.
func (m *concurrentMap[E, P]) reserve(n int) { m.resize(n*100/(m.maxLoad-5) + minSlots) }

// resize copies all elements to n new slots. Readers of the old ones are not affected.
func (m *concurrentMap[E, P]) resize(n int) {
	into := make(slots[E], n)
	if m.size > 0 {
		for e := range m.all {
			i := into.first(m.seed, P(e).mapKey())
			for into[i].Load() != nil {
				i = into.after(i)
			}
			into[i].Store(e)
		}
	}
	m.used = m.size
	m.slots.Store(&into)
}
