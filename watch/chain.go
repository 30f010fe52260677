package watch

import (
	"sync"
	"sync/atomic"
)

// node is one link of a hub's log: the changes of one revision, or a gap. Nodes are linked forward only, so that what
// all cursors have passed is garbage.
type node struct {
	next   atomic.Pointer[node]
	events []Event
	at     position // where they happened, or where the gap ends
	gap    *gap

	count, bytes int64 // of all events of the log up to and with this node
}

// gap says that changes are missing in the log.
type gap struct {
	why    reason
	from   position   // everything up to here is in the log before the gap
	to     position   // everything after this is in the log again
	oldest int64      // the oldest revision that etcd still has, where history was compacted
	begins *historyID // of to, where history was rewritten
}

type reason int

const (
	compacted reason = iota // the history is gone
	skipped                 // reading it would have cost more than listing
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

// cursor is a watch's place in a hub's log. The hub takes it away when the watch lags too far behind.
type cursor struct {
	mu     sync.Mutex
	at     *node    // the last node that was taken; nil without a place
	lost   bool     // the place was taken away
	passed position // with lost: everything up to here was taken, or never happened; zero if that is not known
	folded *fold    // what was taken by the hub for a watch that coalesces

	limit    int64
	coalesce bool
	keys     atomic.Int64 // how many keys the watch's index has, -1 where it has none
}

// take returns what comes next: a node, or a fold, or neither; lost says that the place is gone.
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

// level reports whether there is nothing to take.
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

// trim takes the place away, or folds, when the cursor lags too far behind a log of the given totals. It reports whether the
// place is gone.
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

// foldAll takes everything from first on for the consumer. It reports false, and takes nothing more, where there are
// too many keys, or a gap that the consumer has to see.
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
