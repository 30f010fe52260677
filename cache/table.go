package cache

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
)

// table is a map from keys to versions of their values, for one writer and any number of readers,
// which never wait.
//
// A change of many keys is one step. Its nodes have the number of the step and are invisible to a
// reader that started before the step was committed; each points to the version it replaced.
// Whatever no reader can see any more is cut off: the number and predecessor of a node once its
// step is the oldest one being viewed, and a deleted key altogether. So a node that was cut off is
// visible to every reader. A reader needs no lock: it loads the step first and then the node.
//
// The map uses open addressing with linear probing over pointers, which takes the least memory of
// all maps that readers can share with a writer. A slot changes from nil to a node, between nodes
// of the same key, and to the tombstone. A slot with the tombstone may be reused for another key.
type table[T any] struct {
	seed  maphash.Seed
	slots atomic.Pointer[slots[T]]
	step  atomic.Uint64 // the last committed one
	goods atomic.Int64  // keys whose value decodes, after step
	bads  atomic.Int64  // keys whose value does not decode, after step
	tomb  *node[T]      // its key is "", which no key is

	mu    sync.Mutex // held by the writer, and to start or end a view
	used  int        // slots that are not nil
	wide  bool       // there are more slots than needed
	good  int64      // goods of the current step
	bad   int64      // bads of the current step
	dirty []*node[T] // nodes to be cut off, oldest first
	views map[uint64]int
	fresh *more[T] // shared by the nodes of this step that replace nothing

	loading *load[T] // the nodes of the first step; nil after its commit
}

type slots[T any] struct {
	list []atomic.Pointer[node[T]]
}

// first returns the slot where the search for a key starts. The length need not be a power of two,
// so that a table can grow by less than itself.
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

// A table grows by a quarter when more than three quarters of its slots are in use.
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

// get returns the current version of key, or nil if it is absent.
func (t *table[T]) get(key string) *node[T] {
	step := t.step.Load()
	return t.find(key).at(step)
}

// find returns the newest node of key, or nil if there is none.
func (t *table[T]) find(key string) *node[T] {
	if key == "" {
		return nil // the key of the tombstone
	}
	s := t.slots.Load()
	for i := s.first(t.seed, key); ; i = s.after(i) {
		n := s.list[i].Load()
		if n == nil || n.key == key {
			return n
		}
	}
}

// set makes n the newest version of its key, in the current step. The caller holds mu.
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

// remove deletes a key, in the current step. The caller holds mu.
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

// place returns the slot of a key, or a free one if there is none. It grows the table if necessary.
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

// grow makes room: by a quarter, or by doubling the table if most of its nodes are from the current
// step. commit gives back the excess of doubling.
func (t *table[T]) grow(s *slots[T]) {
	live := t.live(s)
	size := len(s.list)
	switch {
	case 2*live < size: // the tombstones leave enough room
	case 2*len(t.dirty) > live:
		size *= 2
		t.wide = true
	default:
		size += size/4 + 1
	}
	t.resize(s, size)
}

// live returns the number of slots with a node.
func (t *table[T]) live(s *slots[T]) (n int) {
	for i := range s.list {
		if at := s.list[i].Load(); at != nil && at != t.tomb {
			n++
		}
	}
	return n
}

// resize copies all nodes to new slots. Readers of the old ones are not affected.
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

// tighten gives back the slots that a large step took in excess.
func (t *table[T]) tighten() {
	t.wide = false
	s := t.slots.Load()
	if size := roomFor(t.live(s)); size < len(s.list)*9/10 {
		t.resize(s, size)
	}
}

// roomFor returns the number of slots for n nodes. Three of ten are left free.
func roomFor(n int) int { return n*10/7 + firstSlots }

func (s *slots[T]) insert(seed maphash.Seed, n *node[T]) {
	for i := s.first(seed, n.key); ; i = s.after(i) {
		if slot := &s.list[i]; slot.Load() == nil {
			slot.Store(n)
			return
		}
	}
}

// commit makes all changes of the current step visible at once. The caller holds mu.
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

// changed returns the newest node of each key changed by the last step, with the previous one. nil
// stands for no value. The caller holds mu and has not called cut since the commit.
func (t *table[T]) changed(step uint64) (before, after []*node[T]) {
	first := len(t.dirty)
	for first > 0 && t.dirty[first-1].more.Load().step == step {
		first--
	}
	for _, n := range t.dirty[first:] {
		m := n.more.Load()
		if t.find(n.key) != n {
			continue // changed again in the same step
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

// cut removes everything that no reader can see any more. The caller holds mu.
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
