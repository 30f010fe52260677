package sim_test

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdkit/etcdkit/internal/sim"
)

// history is what the cluster has committed. Checkers compare with it what the library has
// reported.
type history struct {
	mu     sync.Mutex
	last   int64 // the last revision
	all    []*mvccpb.Event
	events map[string][]*mvccpb.Event // of each key, in the order of the revisions
	times  map[int64]time.Time        // by which a revision was committed
}

// record records the history of s from now on.
func record(s *sim.Sim) *history {
	h := &history{events: map[string][]*mvccpb.Event{}, times: map[int64]time.Time{}, last: 1}
	s.Observe(h.observe)
	return h
}

func (h *history) observe(e *mvccpb.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = e.Kv.ModRevision
	h.times[h.last] = time.Now()
	h.all = append(h.all, e)
	h.events[string(e.Kv.Key)] = append(h.events[string(e.Kv.Key)], e)
}

// revision returns the last revision. A read that begins now must not be older.
func (h *history) revision() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// of returns the events of a key.
func (h *history) of(key string) []*mvccpb.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events[key])
}

// below returns the events of all keys below a prefix after a revision.
func (h *history) below(prefix string, after int64) (out []*mvccpb.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.all {
		if e.Kv.ModRevision > after && len(e.Kv.Key) >= len(prefix) && string(e.Kv.Key[:len(prefix)]) == prefix {
			out = append(out, e)
		}
	}
	return out
}

// at returns the mod revision of a key at a revision, or 0 if it did not exist, and the revision of
// its next change, or 0.
func (h *history) at(key string, rev int64) (mod, next int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return stateAt(h.events[key], rev)
}

// stateAt is history.at over the events of one key.
func stateAt(events []*mvccpb.Event, rev int64) (mod, next int64) {
	for _, e := range events {
		if e.Kv.ModRevision > rev {
			return mod, e.Kv.ModRevision
		}
		mod = e.Kv.ModRevision
		if e.Type == mvccpb.Event_DELETE {
			mod = 0
		}
	}
	return mod, 0
}

// current reports whether a key had the mod revision mod, or did not exist if mod is 0, at some
// revision from first to last.
func (h *history) current(key string, mod, first, last int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	events := h.events[key]
	if now, _ := stateAt(events, first); now == mod {
		return true
	}
	for _, e := range events {
		if rev := e.Kv.ModRevision; rev > first && rev <= last {
			if now, _ := stateAt(events, rev); now == mod {
				return true
			}
		}
	}
	return false
}

// since looks for the state of a key in which its mod revision was mod, or in which it did not exist
// if mod is 0, from the revision first on. It returns the first revision with that state, and the
// time by which the last such state was replaced, if it was: a key may be deleted more than once.
// It returns 0 if there is none.
func (h *history) since(key string, mod, first int64) (rev int64, replaced time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	events := h.events[key]
	for at := first; at != 0; {
		now, next := stateAt(events, at)
		if now == mod {
			rev, replaced = cmp.Or(rev, at), h.times[next]
		}
		at = next
	}
	return rev, replaced
}
