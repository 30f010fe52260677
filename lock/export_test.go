package lock

import "time"

// KeepWatch sets how long a queue is watched after its last user has left. Before the first use.
func (l *Locker) KeepWatch(d time.Duration) { l.keepWatch = d }
