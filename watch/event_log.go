package watch

import (
	"fmt"
	"sync"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// logEntry is one entry of a broadcaster's log: the changes of one revision, or a gap. Entries are
// linked forward only, so that entries that all cursors have passed can be garbage collected.
type logEntry struct {
	next   atomic.Pointer[logEntry]
	events []Event
	pos    position // the revision of the events, or the end of the gap
	gap    *gap

	count, bytes int64 // totals of the log's events, this entry included
}

// eventLog is the log of a broadcaster, together with the cursors of the watches that read it. The
// broadcaster's mu guards it.
type eventLog struct {
	tail         *logEntry
	cursors      map[*cursor]struct{}
	minLimit     int64 // at most the smallest limit of a cursor
	trimmedCount int64 // the log's count at the last check of the cursors
	trimmedBytes int64 // the log's bytes at the last check of the cursors
}

func newEventLog() eventLog {
	return eventLog{tail: &logEntry{}, cursors: make(map[*cursor]struct{}), minLimit: defaultBuffer}
}

// append appends entries.
func (l *eventLog) append(entries []*logEntry) {
	for _, entry := range entries {
		entry.count, entry.bytes = l.tail.count+int64(len(entry.events)), l.tail.bytes
		for i := range entry.events {
			entry.bytes += entry.events[i].size()
		}
		l.tail.next.Store(entry)
		l.tail = entry
	}
}

// attach moves a cursor to the end of the log.
func (l *eventLog) attach(c *cursor) {
	c.reset(l.tail)
	l.cursors[c] = struct{}{}
	l.minLimit = min(l.minLimit, c.limit)
}

// detach removes a cursor, which need not be in the log.
func (l *eventLog) detach(c *cursor) { delete(l.cursors, c) }

// trim trims the cursors that lag, and returns how many of them it has removed. To bound the memory
// of the log, it checks them each time the log has grown by an eighth of the smallest limit or of
// maxLagBytes.
func (l *eventLog) trim() (removed uint64) {
	grown, grownBytes := l.tail.count-l.trimmedCount, l.tail.bytes-l.trimmedBytes
	if grown == 0 || grown < l.minLimit/8 && grownBytes < maxLagBytes/8 {
		return 0
	}
	l.trimmedCount, l.trimmedBytes, l.minLimit = l.tail.count, l.tail.bytes, defaultBuffer
	for c := range l.cursors {
		l.minLimit = min(l.minLimit, c.limit)
		if c.trim(l.tail.count, l.tail.bytes) {
			delete(l.cursors, c)
			removed++
		}
	}
	return removed
}

// gap is a part of the log whose changes are missing.
type gap struct {
	cause   gapCause
	from    position   // the log before the gap has every change up to here
	to      position   // the log after the gap has every change after here
	oldest  int64      // with gapCompacted: the oldest revision that etcd still has
	history *historyID // with gapRewritten: the history of to
}

type gapCause int

const (
	gapCompacted gapCause = iota // the history was compacted
	gapSkipped                   // reading the history would have cost more than listing
	gapRewritten                 // another history begins
)

func (r gapCause) String() string {
	switch r {
	case gapCompacted:
		return "history compacted"
	case gapRewritten:
		return "history rewritten"
	case gapSkipped:
	}
	return "listing is cheaper than history"
}

// cursor is the position of a watch in a broadcaster's log. The broadcaster removes it from the log
// if the watch lags too far behind.
type cursor struct {
	mu         sync.Mutex
	last       *logEntry  // the last entry taken; nil if the cursor is not in the log
	lost       bool       // the broadcaster has removed the cursor from the log
	completeTo position   // with lost: nothing up to here is missing; zero if unknown
	coalesced  *coalescer // changes that the broadcaster has coalesced for the watch

	limit      int64
	coalescing bool
	indexSize  atomic.Int64 // number of keys in the watch's index, -1 without an index
}

// next returns the next entry, or the coalesced changes, or neither if there is nothing new. Changes
// up to the position after, which the consumer has got otherwise, are not coalesced, unless trim has
// done so before. lost reports whether the cursor was removed from the log.
func (c *cursor) next(after position) (entry *logEntry, coalesced *coalescer, lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.coalesced != nil {
		if c.last != nil && c.last.next.Load() != nil {
			c.coalesceFrom(c.last.next.Load(), after)
		}
		coalesced, c.coalesced = c.coalesced, nil
		return nil, coalesced, false
	}
	if c.lost {
		return nil, nil, true
	}
	entry = c.last.next.Load()
	switch {
	case entry == nil:
		return nil, nil, false
	case c.coalescing && entry.gap == nil && entry.next.Load() != nil:
		c.coalesceFrom(entry, after)
		coalesced, c.coalesced = c.coalesced, nil
		return nil, coalesced, false
	}
	c.last = entry
	return entry, nil, false
}

// caughtUp reports whether the cursor has taken everything in the log.
func (c *cursor) caughtUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last != nil && c.coalesced == nil && c.last.next.Load() == nil
}

// reset moves the cursor behind entry.
func (c *cursor) reset(entry *logEntry) {
	c.mu.Lock()
	c.last, c.lost, c.coalesced = entry, false, nil
	c.mu.Unlock()
}

// trim coalesces the entries ahead of the cursor, or removes the cursor, if it lags too far behind.
// count and bytes are the totals of the log. trim reports whether it removed the cursor.
func (c *cursor) trim(count, bytes int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil || count-c.last.count <= c.limit && bytes-c.last.bytes <= maxLagBytes {
		return false
	}
	next := c.last.next.Load()
	if next == nil || next.next.Load() == nil {
		return false // a single batch always fits
	}
	if c.coalescing && c.coalesceFrom(next, position{}) {
		return false
	}
	c.lost, c.last = true, nil
	c.completeTo = next.pos.atRevision(next.pos.rev - 1)
	if next.gap != nil || c.coalesced != nil {
		c.completeTo = position{}
	}
	return true
}

// coalesceFrom coalesces the entries from first on, without those up to a position. It stops at a
// gap, or when there are too many keys or bytes, and reports whether it reached the end of the log.
func (c *cursor) coalesceFrom(first *logEntry, after position) bool {
	changes := c.coalesced
	if changes == nil {
		changes = newCoalescer()
	}
	last := c.last
	for entry := first; entry != nil; entry = entry.next.Load() {
		if entry.gap != nil {
			break
		}
		if last = entry; after.reaches(entry.pos) {
			continue
		}
		changes.add(entry.pos, entry.events)
		if int64(len(changes.latest)) > c.limit || changes.bytes > maxLagBytes {
			break
		}
	}
	if last != c.last {
		c.coalesced, c.last = changes, last
	}
	return last.next.Load() == nil
}

// logEntries returns an entry for each revision of events after a position, and the position that
// the events reach. It returns errOutOfOrder if the events are not in order.
func (s *span) logEntries(events []*clientv3.Event, after position) (entries []*logEntry, to position, err error) {
	to = after
	last := int64(0)
	out := make([]Event, 0, len(events))
	for _, revision := range splitByRevision(events) {
		rev := revision[0].Kv.GetModRevision()
		if rev <= last {
			return nil, after, fmt.Errorf("%w: revision %d after %d", errOutOfOrder, rev, last)
		}
		if last = rev; rev <= after.rev {
			continue // delivered before
		}
		to = after.atRevision(rev)
		from := len(out)
		for _, ev := range revision {
			if !s.isHidden(ev.Kv.GetKey()) {
				out = append(out, newEvent(ev, len(s.ns)))
			}
		}
		if len(out) > from {
			entries = append(entries, &logEntry{pos: to, events: out[from:len(out):len(out)]})
		}
	}
	return entries, to, nil
}

// splitByRevision splits events, which must be in order, by revision.
func splitByRevision(events []*clientv3.Event) [][]*clientv3.Event {
	var out [][]*clientv3.Event
	for len(events) > 0 {
		n := 1
		for n < len(events) && events[n].Kv.GetModRevision() == events[0].Kv.GetModRevision() {
			n++
		}
		out = append(out, events[:n])
		events = events[n:]
	}
	return out
}
