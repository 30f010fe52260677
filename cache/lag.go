package cache

import (
	"math"
	"sync"
)

// lag records the revisions at which this process has written keys that the replica may not have
// reached yet.
type lag struct {
	mu   sync.Mutex
	keys map[string]int64
}

func newLag() lag { return lag{keys: make(map[string]int64)} }

func (l *lag) raise(key string, rev int64) {
	l.mu.Lock()
	l.keys[key] = max(l.keys[key], rev)
	l.mu.Unlock()
}

func (l *lag) behind(key string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keys[key]
}

// drop removes the revisions up to rev, and calls f with whether none is left. No revision can be
// added before f has returned.
func (l *lag) drop(rev int64, f func(none bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, at := range l.keys {
		if at <= rev {
			delete(l.keys, key)
		}
	}
	f(len(l.keys) == 0)
}

// everyRevision is passed to drop if the cluster's history was replaced.
const everyRevision = math.MaxInt64
