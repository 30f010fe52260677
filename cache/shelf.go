package cache

import (
	"hash/maphash"
	"sync/atomic"
)

// shelf is a concurrent map from keys to items, for one writer at a time and any number of readers,
// which never wait. It is built like the map of a table, which has more comments, but its items
// have no history.
type shelf[T any] struct {
	seed   maphash.Seed
	places atomic.Pointer[places[T]]
	used   int      // places that are not nil
	size   int      // items
	tomb   *item[T] // its key is "", which no key is
}

// places is the array of a shelf. Its length is a power of two.
type places[T any] struct {
	mask uint64
	list []atomic.Pointer[item[T]]
}

func newPlaces[T any](n int) *places[T] {
	return &places[T]{mask: uint64(n - 1), list: make([]atomic.Pointer[item[T]], n)} //nolint:gosec // n is positive
}

func newShelf[T any]() *shelf[T] {
	s := &shelf[T]{seed: maphash.MakeSeed(), tomb: &item[T]{}}
	s.places.Store(newPlaces[T](minSlots))
	return s
}

// get returns the item of key, or nil if there is none.
func (s *shelf[T]) get(key string) *item[T] {
	if key == "" {
		return nil // the key of the tombstone
	}
	p := s.places.Load()
	for i := maphash.String(s.seed, key); ; i++ {
		it := p.list[i&p.mask].Load()
		if it == nil || it.key == key {
			return it
		}
	}
}

// set stores an item under its key.
func (s *shelf[T]) set(it *item[T]) {
	at, free := s.place(it.key)
	if old := at.Load(); old == nil || old == s.tomb {
		if free != nil {
			at = free
		} else if old == nil {
			if p := s.places.Load(); 2*(s.used+1) > len(p.list) {
				s.rebuild(p)
				s.set(it)
				return
			}
			s.used++
		}
		s.size++
	}
	at.Store(it)
}

// remove removes the item of key.
func (s *shelf[T]) remove(key string) {
	if at, _ := s.place(key); at.Load() != nil {
		at.Store(s.tomb)
		s.size--
	}
}

// place returns the place of key, or the nil place where its search ends, and the first free place
// before that.
func (s *shelf[T]) place(key string) (at, free *atomic.Pointer[item[T]]) {
	p := s.places.Load()
	for i := maphash.String(s.seed, key); ; i++ {
		at = &p.list[i&p.mask]
		switch it := at.Load(); {
		case it == nil, it.key == key:
			return at, free
		case it == s.tomb && free == nil:
			free = at
		}
	}
}

// rebuild copies all items to a new array. Readers of the old one are not affected.
func (s *shelf[T]) rebuild(p *places[T]) {
	n := len(p.list)
	if 3*s.size >= n { // otherwise the tombstones leave enough room
		n *= 2
	}
	into := newPlaces[T](n)
	for i := range p.list {
		it := p.list[i].Load()
		if it == nil || it == s.tomb {
			continue
		}
		at := maphash.String(s.seed, it.key)
		for into.list[at&into.mask].Load() != nil {
			at++
		}
		into.list[at&into.mask].Store(it)
	}
	s.used = s.size
	s.places.Store(into)
}
