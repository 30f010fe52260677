package config

import (
	"bytes"
	"maps"
	"slices"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// applyRevision applies the changes of one revision. If whole is set, changes is the complete
// state. It is called from a single goroutine, the only one to modify the layers, which therefore
// reads them without a lock. It updates the layers first, then the bound values, then calls
// followers.
func (s *Source) applyRevision(rev int64, changes []cache.Change[[]byte], whole bool) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.updates.Add(1)
	s.mu.Lock()
	touched, news := s.applyLayer(rev, changes, whole)
	var bounds []boundValue
	for _, b := range s.boundValues {
		if slices.ContainsFunc(touched, b.covers) {
			bounds = append(bounds, b)
		}
	}
	if whole {
		s.origin, s.connectErr = Live, nil
	}
	s.mu.Unlock()

	tell := make([]func(), 0, len(bounds))
	for _, b := range bounds {
		tell = append(tell, b.update(&s.layers, rev))
	}
	for _, f := range tell {
		f()
	}

	s.mu.Lock()
	for l := range s.listeners {
		if of := l.pick(news); len(of) > 0 {
			s.folded.Add(uint64(l.push(of...))) //nolint:gosec // not negative
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
func (s *Source) applyLayer(rev int64, changes []cache.Change[[]byte], whole bool) (touched []string, news []Change) {
	added := make(layer, len(changes))
	for _, c := range changes {
		key := c.New.Key
		if keyspace.Name(key) != nil || (s.dir == "" && keyspace.IsHidden(key)) {
			s.ignored.Add(1)
			continue
		}
		touched = append(touched, key)
		if c.New.ModRevision != 0 {
			added[key] = item{value: nonNil(c.New.Value), rev: c.New.ModRevision, origin: Live}
		}
	}
	if whole {
		for key := range s.layers.etcd {
			if _, still := added[key]; !still {
				touched = append(touched, key)
			}
		}
	}
	slices.Sort(touched)
	before := make(map[string]item, len(touched))
	for _, key := range touched {
		if it, ok := s.layers.lookup(key); ok {
			before[key] = it
		}
	}
	if whole {
		s.layers.etcd = added // saved.etcd keeps the state file's layer for Bind
	} else {
		for _, key := range touched {
			delete(s.layers.etcd, key)
		}
		maps.Copy(s.layers.etcd, added)
	}
	for _, key := range touched {
		cur, _ := s.layers.lookup(key)
		if old := before[key]; (old.value == nil) != (cur.value == nil) || !bytes.Equal(old.value, cur.value) {
			news = append(news, Change{Key: key, Old: old.value, New: cur.value, Revision: rev})
		}
	}
	return touched, news
}

// nonNil returns b, or an empty slice if b is nil. A nil value means that the key is absent.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
