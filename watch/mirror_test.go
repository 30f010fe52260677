package watch_test

import (
	"fmt"

	"github.com/etcdkit/etcdkit/watch"
)

// mirror applies batches as a state consumer does, and records violations of the protocol.
type mirror struct {
	keys      map[string]string
	revs      map[string]int64
	rewritten bool // revisions may start over
	at        int64
	resyncs   int
	// keys were stored earlier: a Resync that comes first is the whole state
	stored bool
	named  map[string]struct{} // by that resync so far
	err    error
}

func newMirror() *mirror { return &mirror{keys: map[string]string{}, revs: map[string]int64{}} }

func (m *mirror) apply(b watch.Batch) {
	m.applyFirst(b)
	if b.Kind == watch.Resync {
		m.resyncs++
		if m.rewritten {
			clear(m.revs)
		}
	}
	if b.Revision < m.at && (!m.rewritten || b.Kind != watch.Resync) {
		m.err = fmt.Errorf("revision %d after %d in a %v batch", b.Revision, m.at, b.Kind)
	}
	m.at = b.Revision
	for _, e := range b.Events {
		if e.ModRevision <= m.revs[e.Key] && (!m.rewritten || b.Kind != watch.Resync) {
			m.err = fmt.Errorf("%s: revision %d after %d in a %v batch of %d", e.Key, e.ModRevision, m.revs[e.Key], b.Kind, b.Revision)
		}
		m.revs[e.Key] = e.ModRevision
		if e.Type == watch.Put {
			m.keys[e.Key] = string(e.Value)
			continue
		}
		if _, ok := m.keys[e.Key]; !ok {
			m.err = fmt.Errorf("%s was deleted though it was not there, in a %v batch of %d", e.Key, b.Kind, b.Revision)
		}
		delete(m.keys, e.Key)
	}
}

// applyFirst deletes stored keys that a Resync that comes first does not contain.
func (m *mirror) applyFirst(b watch.Batch) {
	if m.stored && m.at == 0 && b.Kind == watch.Resync {
		m.named = map[string]struct{}{}
	}
	if m.named == nil {
		return
	}
	for _, e := range b.Events {
		m.named[e.Key] = struct{}{}
	}
	if b.More {
		return
	}
	for k := range m.keys {
		if _, ok := m.named[k]; !ok {
			delete(m.keys, k)
		}
	}
	m.named = nil
}
