package config

import (
	"maps"
	"slices"
)

// update decodes the value from the layers if its bytes have changed, and stores it if it is valid.
// The returned function notifies followers; it must be called once all values are at rev.
func (v *Value[T]) update(l *layers, rev int64) (notify func()) {
	items := v.items(l)
	v.mu.Lock()
	if sameValues(items, v.latest) { // same bytes, or overridden by a stronger layer
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
			b.Revision = rev // a deletion
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
	// A later follower starts with the value just stored.
	followers := slices.Collect(maps.Keys(v.followers))
	return func() {
		for _, q := range followers {
			v.src.merged.Add(uint64(q.push(*out))) //nolint:gosec // not negative
		}
		if before != nil {
			v.src.reportGoodAgain(v.path)
		}
	}
}

// restoreLastGood replaces the keys of v in etcd by those of the last valid value.
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
