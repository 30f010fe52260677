package watch

import (
	"sync"
	"sync/atomic"
)

// node is one entry of a hub's log: the changes of one revision, or a gap. Nodes are linked forward
// only, so that entries that all cursors have passed can be garbage collected.
type node struct {
	next   atomic.Pointer[node]
	events []Event
	at     position // the revision of the events, or the end of the gap
	gap    *gap

	count, bytes int64 // totals of the log's events, this node included
}

// gap is a part of the log whose changes are missing.
type gap struct {
	why    reason
	from   position   // the log before the gap has every change up to here
	to     position   // the log after the gap has every change after here
	oldest int64      // with compacted: the oldest revision that etcd still has
	begins *historyID // with rewritten: the history of to
}

type reason int

const (
	compacted reason = iota // the history was compacted
	skipped                 // reading the history would have cost more than listing
	rewritten               // another history begins
)

func (r reason) String() string {
	switch r {
	case compacted:
		return "history compacted"
	case rewritten:
		return "history rewritten"
	case skipped:
	}
	return "listing is cheaper than history"
}

// cursor is the position of a watch in a hub's log. The hub removes it from the log if the watch
// lags too far behind.
type cursor struct {
	mu     sync.Mutex
	at     *node    // the last node taken; nil if the cursor is not in the log
	lost   bool     // the hub has removed the cursor from the log
	passed position // with lost: nothing up to here is missing; zero if unknown
	folded *fold    // changes that the hub has coalesced for the watch

	limit    int64
	coalesce bool
	keys     atomic.Int64 // number of keys in the watch's index, -1 without an index
}

// take returns the next node, or the coalesced changes, or neither if there is nothing new. lost
// reports whether the cursor was removed from the log.
func (c *cursor) take() (n *node, f *fold, lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.folded != nil {
		if c.at != nil && c.at.next.Load() != nil {
			c.foldAll(c.at.next.Load())
		}
		f, c.folded = c.folded, nil
		return nil, f, false
	}
	if c.lost {
		return nil, nil, true
	}
	n = c.at.next.Load()
	switch {
	case n == nil:
		return nil, nil, false
	case c.coalesce && n.gap == nil && n.next.Load() != nil:
		c.foldAll(n)
		f, c.folded = c.folded, nil
		return nil, f, false
	}
	c.at = n
	return n, nil, false
}

// level reports whether the cursor has taken everything in the log.
func (c *cursor) level() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at != nil && c.folded == nil && c.at.next.Load() == nil
}

// place puts the cursor behind n.
func (c *cursor) place(n *node) {
	c.mu.Lock()
	c.at, c.lost, c.folded = n, false, nil
	c.mu.Unlock()
}

// trim coalesces the entries ahead of the cursor, or removes the cursor, if it lags too far behind.
// count and bytes are the totals of the log. trim reports whether it removed the cursor.
func (c *cursor) trim(count, bytes int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil || count-c.at.count <= c.limit && bytes-c.at.bytes <= bufferBytes {
		return false
	}
	first := c.at.next.Load()
	if first == nil || first.next.Load() == nil {
		return false // a single batch always fits
	}
	if c.coalesce && c.foldAll(first) {
		return false
	}
	c.lost, c.at = true, nil
	c.passed = first.at.at(first.at.rev - 1)
	if first.gap != nil || c.folded != nil {
		c.passed = position{}
	}
	return true
}

// foldAll coalesces the nodes from first on. It stops at a gap, or when there are too many keys or
// bytes, and reports whether it reached the end of the log.
func (c *cursor) foldAll(first *node) bool {
	f := c.folded
	if f == nil {
		f = newFold()
	}
	last := c.at
	for n := first; n != nil; n = n.next.Load() {
		if n.gap != nil {
			break
		}
		f.add(n.at, n.events)
		last = n
		if int64(len(f.latest)) > c.limit || f.bytes > bufferBytes {
			break
		}
	}
	if last != c.at {
		c.folded, c.at = f, last
	}
	return last.next.Load() == nil
}
