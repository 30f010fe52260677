package watch

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// hub is a server-side watch and the log of its changes. Only the hub's goroutine reads the stream
// and writes the log. It never waits for a consumer.
type hub struct {
	core *core
	key  hubKey
	span span
	name string // the selector of the first watch

	ctx  context.Context //nolint:containedctx // ends the goroutine
	stop context.CancelFunc
	refs int // guarded by core.mu

	wake    atomic.Pointer[bell]      // rung when consumers must check the hub
	reached atomic.Pointer[position]  // end of the log, zero at first; set under mu, after the entries
	history atomic.Pointer[historyID] // nil at first; a new one is set under mu, with its gap
	waits   atomic.Int64              // number of waiters for reached or whole to advance
	heard   atomic.Int64              // when etcd last answered, in Unix nanoseconds; 0 before
	whole   atomic.Pointer[time.Time] // the log has every change made by then; nil if unknown
	asked   chan struct{}             // holds one: a progress report is needed now

	mu       sync.Mutex
	tail     *node
	state    State
	since    time.Time
	why      error // the last error
	reopened uint64
	failed   error // the error that ended the hub and all its watches
	cursors  map[*cursor]struct{}
	least    int64 // at most the smallest limit of a cursor
	checked  int64 // the log's count at the last check of the cursors
	weighed  int64 // the log's bytes at the last check of the cursors

	flow // used by the hub's goroutine only
}

// bell wakes all its waiters, once.
type bell struct{ rung chan struct{} }

func newBell() *bell { return &bell{rung: make(chan struct{})} }

func newHub(c *core, r *request) *hub {
	h := &hub{
		core: c, key: r.key(), span: r.span, name: r.sel.String(),
		asked: make(chan struct{}, 1), tail: &node{}, since: time.Now(), cursors: make(map[*cursor]struct{}),
		least: defaultBuffer,
	}
	h.ctx, h.stop = context.WithCancel(c.ctx)
	h.wake.Store(newBell())
	h.reached.Store(&position{})
	return h
}

// ring wakes the consumers.
func (h *hub) ring() { close(h.wake.Swap(newBell()).rung) }

// attach places a cursor at the end of the log, which will contain every change after base. ok is
// false if the watch is not live.
func (h *hub) attach(c *cursor) (base position, ok bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed != nil {
		return position{}, false, h.failed
	}
	if h.state != StateLive {
		return position{}, false, nil
	}
	c.place(h.tail)
	h.cursors[c] = struct{}{}
	h.least = min(h.least, c.limit)
	return h.at(), true, nil
}

// at returns the end of the log.
func (h *hub) at() position { return *h.reached.Load() }

// follows reports whether the log follows the history of p.
func (h *hub) follows(p position) bool {
	id := h.history.Load()
	return id != nil && id.number == p.history
}

// detach unregisters a cursor.
func (h *hub) detach(c *cursor) {
	h.mu.Lock()
	delete(h.cursors, c)
	h.mu.Unlock()
}

// publish appends nodes to the log. The log then has every change up to the position to.
func (h *hub) publish(nodes []*node, to position) {
	h.mu.Lock()
	if len(nodes) > 0 && nodes[0].gap != nil && nodes[0].gap.begins != nil {
		h.history.Store(nodes[0].gap.begins) // with the gap: a cursor placed from now on stands behind it
	}
	last := h.tail
	for _, n := range nodes {
		n.count, n.bytes = last.count+int64(len(n.events)), last.bytes
		for i := range n.events {
			n.bytes += n.events[i].weight()
		}
		last.next.Store(n)
		last = n
	}
	h.tail = last
	h.reached.Store(&to)
	h.trim()
	h.mu.Unlock()
	if len(nodes) > 0 || h.waits.Load() > 0 {
		h.ring()
	}
}

// trim trims the cursors that lag. To bound the memory of the log, it checks them each time the log
// has grown by an eighth of the smallest limit or of bufferBytes.
func (h *hub) trim() {
	grown, weight := h.tail.count-h.checked, h.tail.bytes-h.weighed
	if grown == 0 || grown < h.least/8 && weight < bufferBytes/8 {
		return
	}
	h.checked, h.weighed, h.least = h.tail.count, h.tail.bytes, defaultBuffer
	for c := range h.cursors {
		h.least = min(h.least, c.limit)
		if c.trim(h.tail.count, h.tail.bytes) {
			delete(h.cursors, c)
			h.core.counts.overflows.Add(1)
		}
	}
}

// become changes the state and wakes the consumers. why is the error that Status returns while
// stale.
func (h *hub) become(s State, since time.Time, why error) {
	h.mu.Lock()
	if h.state != s {
		h.state, h.since = s, since
	}
	h.why = why
	h.mu.Unlock()
	h.ring()
}

// wholeAsOf records that the log has every change made by t.
func (h *hub) wholeAsOf(t time.Time) {
	if last := h.whole.Load(); last == nil || t.After(*last) {
		h.whole.Store(&t)
	}
	if h.waits.Load() > 0 {
		h.ring()
	}
}

// fail ends the hub and all its watches with err.
func (h *hub) fail(err error) {
	h.core.forget(h)
	h.mu.Lock()
	h.failed = err
	h.mu.Unlock()
	h.ring()
}

// failure returns the error that ended the hub, or nil.
func (h *hub) failure() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}

// status returns the status of the server-side watch.
func (h *hub) status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := Status{State: h.state, Since: h.since, Reopened: h.reopened, Revision: h.at().rev}
	if h.state == StateStale {
		s.Err = h.why
	}
	if whole := h.whole.Load(); whole != nil {
		s.Heard = *whole
	}
	return s
}

// listing estimates how long it takes until all state watches that follow the log have listed. It
// reports whether some of the watches that follow the log are state watches, and whether all are.
// Watches that do not follow the log join it behind the gap.
func (h *hub) listing() (d time.Duration, some, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all = true
	for c := range h.cursors {
		n := c.keys.Load()
		if n < 0 {
			all = false
			continue
		}
		some = true
		d += listTime(n)
	}
	return d, some, all
}

// Estimated costs of the two ways to catch up. A list takes a round trip and some microseconds a
// key. History is delivered every 100 ms, up to a thousand revisions each time.
const (
	listOnce    = time.Millisecond
	listKey     = 3 * time.Microsecond
	replayTurn  = 100 * time.Millisecond
	replayBatch = 1000
)

func listTime(keys int64) time.Duration { return listOnce + time.Duration(keys)*listKey }

func replayTime(revisions int64) time.Duration {
	return time.Duration((revisions+replayBatch-1)/replayBatch) * replayTurn
}

// nodes returns a node for each revision of events after a position, and the position that the
// events reach. It returns errOutOfOrder if the events are not in order.
func (s *span) nodes(events []*clientv3.Event, after position) (nodes []*node, to position, err error) {
	to = after
	last := int64(0)
	out := make([]Event, 0, len(events))
	for _, run := range revisions(events) {
		rev := run[0].Kv.GetModRevision()
		if rev <= last {
			return nil, after, fmt.Errorf("%w: revision %d after %d", errOutOfOrder, rev, last)
		}
		if last = rev; rev <= after.rev {
			continue // delivered before
		}
		to = after.at(rev)
		from := len(out)
		for _, ev := range run {
			if !s.hidden(ev.Kv.GetKey()) {
				out = append(out, convert(ev, len(s.ns)))
			}
		}
		if len(out) > from {
			nodes = append(nodes, &node{at: to, events: out[from:len(out):len(out)]})
		}
	}
	return nodes, to, nil
}

// revisions splits events, which must be in order, by revision.
func revisions(events []*clientv3.Event) [][]*clientv3.Event {
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
