package lock

import (
	"strings"
	"time"
)

// inspectAfter is how long a key of ours that nobody knows may stand before it counts as garbage: the watch may run
// behind what this process has removed.
const inspectAfter = time.Second

// suspect looks at whether a key is one of ours that nobody knows: the late effect of a request whose answer was lost.
// The lock is held.
func (q *queue) suspect(e *entry) {
	if q.places[e.key] != nil || !strings.Contains(e.key[len(q.prefix):], "-"+q.l.id+".") {
		return
	}
	q.suspects[e.key] = struct{}{}
	if q.inspect == nil {
		q.inspect = time.AfterFunc(inspectAfter, q.garbage)
	}
}

// garbage removes what is still suspect.
func (q *queue) garbage() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inspect = nil
	for key := range q.suspects {
		if !q.l.knows(key) {
			q.l.sweep(key, false)
		}
	}
	clear(q.suspects)
}

// knows reports whether a key is that of a place, whichever queue that has it from: one that is used again right after it
// was given up is watched by two for a moment.
func (l *Locker) knows(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.places[key] != nil
}
