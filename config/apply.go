package config

import (
	"bytes"
	"maps"
	"slices"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// applyRevision applies the changes of one revision. If complete is true, changes is the whole
// state. It updates the layers, then the bound values, and then notifies followers. Only
// applyRevision modifies the layers, and only one goroutine calls it, so it reads them without
// holding s.mu.
func (s *Source) applyRevision(rev int64, changes []cache.Change[[]byte], complete bool) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.updates.Add(1)
	s.mu.Lock()
	changedKeys, effective := s.applyLayer(rev, changes, complete)
	var bounds []boundValue
	for _, b := range s.boundValues {
		if slices.ContainsFunc(changedKeys, b.covers) {
			bounds = append(bounds, b)
		}
	}
	if complete {
		s.origin, s.connectErr = Live, nil
	}
	s.mu.Unlock()

	notify := make([]func(), 0, len(bounds))
	for _, b := range bounds {
		notify = append(notify, b.update(&s.layers, rev))
	}
	for _, f := range notify {
		f()
	}

	s.mu.Lock()
	for l := range s.listeners {
		if selected := l.pick(effective); len(selected) > 0 {
			s.merged.Add(uint64(l.push(selected...))) //nolint:gosec // not negative
		}
	}
	s.appliedRevision = rev
	close(s.applied)
	s.applied = make(chan struct{})
	s.mu.Unlock()
	s.markStateDirty()
}

// applyLayer updates the etcd layer. It returns the keys that changed in etcd and the changes of
// effective values. s.mu must be held.
func (s *Source) applyLayer(rev int64, changes []cache.Change[[]byte], complete bool) (changedKeys []string, effective []Change) {
	added := make(layer, len(changes))
	for _, c := range changes {
		key := c.New.Key
		if keyspace.Name(key) != nil || (s.dir == "" && keyspace.IsHidden(key)) {
			s.ignored.Add(1)
			continue
		}
		changedKeys = append(changedKeys, key)
		if c.New.ModRevision != 0 {
			added[key] = item{value: nonNil(c.New.Value), rev: c.New.ModRevision, origin: Live}
		}
	}
	if complete {
		for key := range s.layers.etcd {
			if _, found := added[key]; !found {
				changedKeys = append(changedKeys, key)
			}
		}
	}
	slices.Sort(changedKeys)
	before := make(map[string]item, len(changedKeys))
	for _, key := range changedKeys {
		if it, ok := s.layers.lookup(key); ok {
			before[key] = it
		}
	}
	if complete {
		s.layers.etcd = added // saved.etcd keeps the state file's layer for Bind
	} else {
		for _, key := range changedKeys {
			delete(s.layers.etcd, key)
		}
		maps.Copy(s.layers.etcd, added)
	}
	for _, key := range changedKeys {
		cur, _ := s.layers.lookup(key)
		if old := before[key]; (old.value == nil) != (cur.value == nil) || !bytes.Equal(old.value, cur.value) {
			effective = append(effective, Change{Key: key, Old: old.value, New: cur.value, Revision: rev})
		}
	}
	return changedKeys, effective
}

// nonNil returns b, or an empty slice if b is nil. A nil value means that the key is absent.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
