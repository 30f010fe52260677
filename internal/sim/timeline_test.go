package sim_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdkit/etcdkit/internal/sim"
)

// timeline holds the states of the keys below a prefix in the order in which they were in force. A
// cluster that is restored goes back to earlier revisions, and its timeline goes on.
type timeline struct {
	prefix string

	mu     sync.Mutex
	states []moment
}

// moment is a state of the keys below a prefix.
type moment struct {
	rev      int64
	restores int // before it
	at       time.Time
	keys     map[string]string // values by key, without the prefix
}

// follow follows the keys of s below a prefix.
func follow(s *sim.Sim, prefix string) *timeline {
	tl := &timeline{prefix: prefix, states: []moment{{rev: 1, at: time.Now(), keys: map[string]string{}}}}
	s.Observe(tl.observe)
	s.ObserveRestores(tl.restore)
	return tl
}

func (tl *timeline) observe(e *mvccpb.Event) {
	key, ok := strings.CutPrefix(string(e.Kv.Key), tl.prefix)
	if !ok {
		return
	}
	tl.mu.Lock()
	defer tl.mu.Unlock()
	last := &tl.states[len(tl.states)-1]
	if last.rev != e.Kv.ModRevision {
		tl.states = append(tl.states, moment{rev: e.Kv.ModRevision, restores: last.restores, at: time.Now(), keys: maps.Clone(last.keys)})
		last = &tl.states[len(tl.states)-1]
	}
	if e.Type == mvccpb.Event_DELETE {
		delete(last.keys, key)
	} else {
		last.keys[key] = string(e.Kv.Value)
	}
}

func (tl *timeline) restore(rev int64, keys map[string]string) {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	m := moment{rev: rev, restores: tl.states[len(tl.states)-1].restores + 1, at: time.Now(), keys: map[string]string{}}
	for key, value := range keys {
		if name, ok := strings.CutPrefix(key, tl.prefix); ok {
			m.keys[name] = value
		}
	}
	tl.states = append(tl.states, m)
}

// find returns the index of the first state from first on that is as it should be, or -1. Whoever
// reads states in their order finds each of them at or after the one before.
func (tl *timeline) find(first int, is func(m moment) bool) int {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	for i := max(first, 0); i < len(tl.states); i++ {
		if is(tl.states[i]) {
			return i
		}
	}
	return -1
}

// by returns the index of the state that was in force at a time.
func (tl *timeline) by(at time.Time) int {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	i := len(tl.states) - 1
	for i > 0 && tl.states[i].at.After(at) {
		i--
	}
	return i
}

// between returns the states from first to last.
func (tl *timeline) between(first, last int) []moment {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	out := slices.Clone(tl.states[first : last+1])
	out[len(out)-1].keys = maps.Clone(out[len(out)-1].keys) // the last one may still change
	return out
}

// len returns the number of states.
func (tl *timeline) len() int {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	return len(tl.states)
}

// restoreOnce takes a snapshot within d and restores it later, or an empty cluster in one of three
// cases.
func restoreOnce(s *sim.Sim, rng *rand.Rand, d time.Duration) {
	first := time.Duration(rng.Int64N(int64(d)))
	time.Sleep(first)
	snapshot := s.Snapshot()
	time.Sleep(time.Duration(rng.Int64N(int64(d - first))))
	if rng.IntN(3) == 0 {
		snapshot = nil
	}
	s.Trace("restore: %v", snapshot != nil)
	s.Restore(snapshot, false)
}
