package lock

import "time"

// KeepWatch sets how long a queue is watched after its last user has left. Before the first use.
func (l *Locker) KeepWatch(d time.Duration) { l.keepWatch = d }

// WatchNoHold keeps holds from being watched, however long they are: what they cost does not depend on how fast the machine
// is. Before the first use.
func (l *Locker) WatchNoHold() { l.watchAfter = time.Hour }

// WatchApart watches a queue that the locker does not know of, as one is that is on its way out.
func (l *Locker) WatchApart(prefix string) (stop func()) {
	q := l.enter(prefix)
	q.watch()
	l.mu.Lock()
	delete(l.queues, prefix)
	l.mu.Unlock()
	return q.stop
}
