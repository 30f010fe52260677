package config

import (
	"errors"
)

// update takes over what the layers have, if it is something else, and good.
func (v *Value[T]) update(l *layers, rev int64) {
	pieces := v.pieces(l)
	v.mu.Lock()
	if same(pieces, v.latest) { // written again, or hidden by a stronger layer
		if v.latest = pieces; v.err == nil {
			v.good = pieces
		}
		v.mu.Unlock()
		return
	}
	v.mu.Unlock()
	out, err := v.make(pieces)
	bad, isBad := errors.AsType[*BadValueError](err)
	if isBad && bad.Revision == 0 && bad.Origin == Live {
		bad.Revision = rev // something was deleted
	}
	v.mu.Lock()
	v.latest, v.err = pieces, err
	if !isBad {
		v.good = pieces
		v.current.Store(out)
		for t := range v.tails {
			v.src.folded.Add(uint64(t.push(*out))) //nolint:gosec // not negative
		}
	}
	v.mu.Unlock()
	if isBad {
		v.src.bad(bad)
	}
}

// keep makes an etcd layer that the value can use of one that it cannot: with what it shows now.
func (v *Value[T]) keep(etcd layer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key := range etcd {
		if v.touched(key) {
			delete(etcd, key)
		}
	}
	for _, p := range v.good {
		if p.origin == Live || p.origin == StateFile {
			etcd[p.key] = p.item
		}
	}
}
