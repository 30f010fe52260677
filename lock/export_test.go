package lock

import "time"

// KeepWatch sets how long the stream of watches is kept after the last one has ended. Before the first use.
func (l *Locker) KeepWatch(d time.Duration) { l.keyWatcher.KeepOpen(d) }

// WatchNoHold keeps holds from being watched, however long they are: what they cost does not depend on how fast the machine
// is. Before the first use.
func (l *Locker) WatchNoHold() { l.watchThreshold = time.Hour }

// LookEvery sets how often whoever waits looks at the queue although no watch has told of a change, ±20 %. Before the first use.
func (l *Locker) LookEvery(d time.Duration) { l.checkInterval = d }
