package cache

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
)

// table is a map from keys to versions of their values, for one writer and any number of readers that wait for nobody.
//
// A change of many keys is one step: its nodes carry the step's number, and are not there for a reader who came before the step
// was taken; each leads to what it has replaced. What nobody can look at any more is cut off: a node's number and predecessor
// when its step is the oldest that is looked at, a deleted key altogether. So a node that was cut off is there for
// everybody, and a reader needs no lock: it reads the step first, and then the node.
//
// The map itself is open addressing with linear probing over pointers, because that is the least memory that readers can
// share with a writer: a slot goes from nil to a node, from node to node of the same key, and to the tombstone; a slot
// that holds the tombstone may be taken by another key.
type table[T any] struct {
	seed  maphash.Seed
	slots atomic.Pointer[slots[T]]
	step  atomic.Uint64 // the last one that was taken
	goods atomic.Int64  // keys with a value, after it
	bads  atomic.Int64  // keys whose value does not decode
	tomb  *node[T]      // its key is "", which no key is

	mu    sync.Mutex // of the writer, and of those who begin or end a view
	used  int        // slots that are not nil
	wide  bool       // there is more room than there need be
	good  int64      // as goods, in the step that is being made
	bad   int64      // as bads
	dirty []*node[T] // nodes to be cut off, oldest first
	views map[uint64]int
	fresh *more[T] // of the nodes of this step that replace nothing

	loading *load[T] // what the first step brings, nil when it was taken
}

type slots[T any] struct {
	list []atomic.Pointer[node[T]]
}

// first is where the search for a key begins. It needs no power of two, so that a table can grow by less than itself.
func (s *slots[T]) first(seed maphash.Seed, key string) uint64 {
	hi, _ := bits.Mul64(maphash.String(seed, key), uint64(len(s.list)))
	return hi
}

// after is the place after i.
func (s *slots[T]) after(i uint64) uint64 {
	i++
	if i == uint64(len(s.list)) {
		return 0
	}
	return i
}

// How a table grows: when more than three quarters of its slots are in use, by a quarter.
const (
	firstSlots = 16
	loadNum    = 3
	loadDen    = 4
)

func newTable[T any]() *table[T] {
	t := &table[T]{seed: maphash.MakeSeed(), tomb: &node[T]{}, views: make(map[uint64]int)}
	t.slots.Store(newSlots[T](firstSlots))
	return t
}

func newSlots[T any](n int) *slots[T] {
	return &slots[T]{list: make([]atomic.Pointer[node[T]], n)}
}

// get returns key as it is now, nil where it is absent.
func (t *table[T]) get(key string) *node[T] {
	step := t.step.Load()
	return t.find(key).at(step)
}

// find returns the newest node of key, nil where there is none.
func (t *table[T]) find(key string) *node[T] {
	if key == "" {
		return nil // it is the tombstone's
	}
	s := t.slots.Load()
	for i := s.first(t.seed, key); ; i = s.after(i) {
		n := s.list[i].Load()
		if n == nil || n.key == key {
			return n
		}
	}
}

// set makes n the newest version of its key, in the step that is being made. The caller holds mu.
func (t *table[T]) set(n *node[T], m more[T]) {
	if t.loading != nil {
		t.loading.put(n, m)
		return
	}
	at, old := t.place(n.key)
	if old != nil {
		m.prev = old
		t.count(old, -1)
	}
	m.step = t.step.Load() + 1
	if m.prev == nil && !m.keep {
		if t.fresh == nil {
			t.fresh = &more[T]{step: m.step}
		}
		n.more.Store(t.fresh)
	} else {
		kept := m // m itself would be on the heap for every key
		n.more.Store(&kept)
	}
	t.count(n, 1)
	t.dirty = append(t.dirty, n)
	at.Store(n)
}

// remove deletes a key, in the step that is being made. The caller holds mu.
func (t *table[T]) remove(key string, rev int64) {
	if t.loading == nil && t.find(key).isGone() {
		return
	}
	t.set(&node[T]{key: key, mod: rev}, more[T]{gone: true, keep: true})
}

func (t *table[T]) count(n *node[T], d int64) {
	switch {
	case n.isGone():
	case n.badness() != nil:
		t.bad += d
	default:
		t.good += d
	}
}

// place finds the slot of a key, or one for it, and makes room where that is needed.
func (t *table[T]) place(key string) (at *atomic.Pointer[node[T]], old *node[T]) {
	s := t.slots.Load()
	var free *atomic.Pointer[node[T]]
	for i := s.first(t.seed, key); ; i = s.after(i) {
		slot := &s.list[i]
		switch n := slot.Load(); {
		case n == nil:
			if free != nil {
				return free, nil
			}
			if loadDen*(t.used+1) > loadNum*len(s.list) {
				t.grow(s)
				return t.place(key)
			}
			t.used++
			return slot, nil
		case n == t.tomb:
			if free == nil {
				free = slot
			}
		case n.key == key:
			return slot, n
		}
	}
}

// grow makes room: by a quarter, or by as much again where one step brings most of what there is. That is given back when
// the step is taken.
func (t *table[T]) grow(s *slots[T]) {
	live := t.live(s)
	size := len(s.list)
	switch {
	case 2*live < size: // there is room, where the tombstones are
	case 2*len(t.dirty) > live:
		size *= 2
		t.wide = true
	default:
		size += size/4 + 1
	}
	t.resize(s, size)
}

// live counts the slots that hold a node.
func (t *table[T]) live(s *slots[T]) (n int) {
	for i := range s.list {
		if at := s.list[i].Load(); at != nil && at != t.tomb {
			n++
		}
	}
	return n
}

// resize moves everything to other slots. Readers of the old ones go on reading what was there.
func (t *table[T]) resize(s *slots[T], size int) {
	into := newSlots[T](size)
	t.used = 0
	for i := range s.list {
		if n := s.list[i].Load(); n != nil && n != t.tomb {
			into.insert(t.seed, n)
			t.used++
		}
	}
	t.slots.Store(into)
}

// tighten gives back what a large step has taken too much.
func (t *table[T]) tighten() {
	t.wide = false
	s := t.slots.Load()
	if size := roomFor(t.live(s)); size < len(s.list)*9/10 {
		t.resize(s, size)
	}
}

// roomFor is how many slots n nodes get: three of ten are for what comes next.
func roomFor(n int) int { return n*10/7 + firstSlots }

func (s *slots[T]) insert(seed maphash.Seed, n *node[T]) {
	for i := s.first(seed, n.key); ; i = s.after(i) {
		if slot := &s.list[i]; slot.Load() == nil {
			slot.Store(n)
			return
		}
	}
}

// commit takes the step that was made: all of it is there at once. The caller holds mu.
func (t *table[T]) commit() {
	t.fresh = nil
	if t.loading != nil {
		t.settle()
	}
	if t.wide {
		t.tighten()
	}
	t.step.Add(1)
	t.goods.Store(t.good)
	t.bads.Store(t.bad)
}

// changed returns the newest node of each key that the step that was just taken has changed, with what was there before; nil
// stands for no value. The caller holds mu, and has not called cut since.
func (t *table[T]) changed(step uint64) (before, after []*node[T]) {
	first := len(t.dirty)
	for first > 0 && t.dirty[first-1].more.Load().step == step {
		first--
	}
	for _, n := range t.dirty[first:] {
		m := n.more.Load()
		if t.find(n.key) != n {
			continue // changed again, in the same step
		}
		old := m.prev.at(step - 1)
		if old != nil && old.badness() != nil {
			old = nil
		}
		now := n
		if m.gone || m.bad != nil {
			now = nil
		}
		if old != nil || now != nil {
			before, after = append(before, old), append(after, now)
		}
	}
	return before, after
}

// cut cuts off what nobody can look at any more. The caller holds mu.
func (t *table[T]) cut() {
	oldest := t.step.Load()
	for step := range t.views {
		oldest = min(oldest, step)
	}
	n := 0
	for _, d := range t.dirty {
		m := d.more.Load()
		if m.step > oldest {
			break
		}
		n++
		switch {
		case m.gone:
			if at, now := t.place(d.key); now == d {
				at.Store(t.tomb)
			}
		case m.keep:
			kept := *m
			kept.step, kept.prev = 0, nil
			d.more.Store(&kept)
		default:
			d.more.Store(nil)
		}
	}
	clear(t.dirty[:n])
	if t.dirty = t.dirty[n:]; len(t.dirty) == 0 {
		t.dirty = nil
	}
}
