package config

import (
	"maps"
	"slices"
)

// update takes over what the layers have, if it is something else, and good. tell tells those who follow the value, and
// is to be called when all values are at rev.
func (v *Value[T]) update(l *layers, rev int64) (tell func()) {
	items := v.items(l)
	v.mu.Lock()
	if sameValues(items, v.latest) { // written again, or hidden by a stronger layer
		if v.latest = items; v.err == nil {
			v.good = items
		}
		v.mu.Unlock()
		return func() {}
	}
	v.mu.Unlock()
	out, err := v.build(items)
	bad := listBad(err)
	for _, b := range bad {
		if b.Revision == 0 && b.Origin == Live {
			b.Revision = rev // something was deleted
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.err
	v.latest, v.err = items, err
	if bad != nil {
		return func() { v.src.reportBadValue(v.path, before == nil, err) }
	}
	v.good = items
	v.current.Store(out)
	tails := slices.Collect(maps.Keys(v.followers)) // who comes later begins with what is current now
	return func() {
		for _, t := range tails {
			v.src.folded.Add(uint64(t.push(*out))) //nolint:gosec // not negative
		}
		if before != nil {
			v.src.reportGoodAgain(v.path)
		}
	}
}

// restoreLastGood makes an etcd layer that the value can use of one that it cannot: with what it shows now.
func (v *Value[T]) restoreLastGood(etcd layer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key := range etcd {
		if v.covers(key) {
			delete(etcd, key)
		}
	}
	for _, p := range v.good {
		if p.origin == Live || p.origin == StateFile {
			etcd[p.key] = p.item
		}
	}
}
