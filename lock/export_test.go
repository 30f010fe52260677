package lock

import "time"

// SetKeepOpen sets how long the watch stream is kept open after the last watch has ended. It must
// be called before the first use.
func (l *Locker) SetKeepOpen(d time.Duration) { l.keyWatcher.KeepOpen(d) }

// DisableHoldWatch prevents the watches of holds, however long they last, so that the cost of a
// hold does not depend on the speed of the machine. It must be called before the first use.
func (l *Locker) DisableHoldWatch() { l.watchThreshold = time.Hour }

// SetCheckInterval sets how often a waiter checks the queue although no watch has reported a
// change, ±20 %. It must be called before the first use.
func (l *Locker) SetCheckInterval(d time.Duration) { l.checkInterval = d }
