package cache

import (
	"math"
	"sync"
)

// lag is the revisions at which this process has written keys, as far as the replica may not have reached them.
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

// drop forgets what was reached, and tells f, before anybody can raise anything, whether nothing is left.
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

// everyRevision is reached, where history has begun anew.
const everyRevision = math.MaxInt64
