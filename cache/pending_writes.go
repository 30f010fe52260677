package cache

import (
	"math"
	"sync"
)

// pendingWrites records the revisions at which this process has written keys and which the replica
// may not have reached yet.
type pendingWrites struct {
	mu        sync.Mutex
	revisions map[string]int64
}

func newPendingWrites() pendingWrites { return pendingWrites{revisions: make(map[string]int64)} }

// add records a write.
func (p *pendingWrites) add(key string, rev int64) {
	p.mu.Lock()
	p.revisions[key] = max(p.revisions[key], rev)
	p.mu.Unlock()
}

// revision returns the revision of the last write of key, or 0 if the replica has reached it.
func (p *pendingWrites) revision(key string) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.revisions[key]
}

// removeUpTo removes the writes up to rev, and calls f with whether none is left. No write can be
// added before f has returned.
func (p *pendingWrites) removeUpTo(rev int64, f func(none bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, at := range p.revisions {
		if at <= rev {
			delete(p.revisions, key)
		}
	}
	f(len(p.revisions) == 0)
}

// allRevisions is passed to removeUpTo if the cluster's history was replaced.
const allRevisions = math.MaxInt64
