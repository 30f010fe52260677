package watch

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// hub is one server-side watch and the log of what it delivers. Its goroutine alone reads the stream and writes the log;
// it never waits for a consumer.
type hub struct {
	core *core
	key  hubKey
	span span
	name string // of the first selector that asked for it

	ctx  context.Context //nolint:containedctx // the life of the goroutine
	stop context.CancelFunc
	refs int // guarded by core.mu

	wake    atomic.Pointer[bell]      // rung whenever consumers have something to look at
	reached atomic.Pointer[position]  // what is in the log, zero before the first confirmation; set under mu, after the entries
	history atomic.Pointer[historyID] // nil before the first confirmation; that of a new history is set under mu, with its gap
	waits   atomic.Int64              // how many wait for the position to move
	heard   atomic.Int64              // when etcd last answered, in Unix nanoseconds; 0 before
	whole   atomic.Pointer[time.Time] // everything that had happened by then is in the log; nil while that is not known
	asked   chan struct{}             // somebody wants a progress report now

	mu       sync.Mutex
	tail     *node
	state    State
	since    time.Time
	why      error // the last failure
	reopened uint64
	failed   error // the end, for all
	cursors  map[*cursor]struct{}
	least    int64 // the smallest limit of a cursor, or lower
	checked  int64 // the log's count when the cursors were last looked at
	weighed  int64 // likewise its bytes

	flow // of the goroutine alone
}

// bell wakes all who wait at it, once.
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

// attach puts a cursor at the end of the log, where everything after base will be, if the watch is open.
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

// at is the position of the log.
func (h *hub) at() position { return *h.reached.Load() }

// follows reports whether the log follows the history that p is a position of.
func (h *hub) follows(p position) bool {
	id := h.history.Load()
	return id != nil && id.number == p.history
}

// detach forgets a cursor.
func (h *hub) detach(c *cursor) {
	h.mu.Lock()
	delete(h.cursors, c)
	h.mu.Unlock()
}

// publish appends to the log, which has everything up to a position then.
func (h *hub) publish(nodes []*node, to position) {
	h.mu.Lock()
	if len(nodes) > 0 && nodes[0].gap != nil && nodes[0].gap.begins != nil {
		h.history.Store(nodes[0].gap.begins) // with the gap: a cursor that is placed now stands behind it
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

// trim looks after cursors that lag, from time to time: each time the log has grown by a part of what the least patient
// may lag, so that nobody holds much more.
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

// become changes the state.
func (h *hub) become(s State, since time.Time, why error) {
	h.mu.Lock()
	if h.state != s {
		h.state, h.since = s, since
	}
	h.why = why
	h.mu.Unlock()
	h.ring()
}

// wholeAsOf says that everything that had happened by then is in the log.
func (h *hub) wholeAsOf(t time.Time) {
	if last := h.whole.Load(); last == nil || t.After(*last) {
		h.whole.Store(&t)
	}
	if h.waits.Load() > 0 {
		h.ring()
	}
}

// fail is the end of the hub and of all its watches.
func (h *hub) fail(err error) {
	h.core.forget(h)
	h.mu.Lock()
	h.failed = err
	h.mu.Unlock()
	h.ring()
}

// failure is why the hub has ended, nil while it has not.
func (h *hub) failure() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}

// status is how the server-side watch stands.
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

// listing estimates how long it takes if all that follow the log and keep state list anew, and reports whether some of
// them do, and all. Consumers that do not follow the log now join behind the gap.
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

// What catching up costs, for the choice between the two ways: a list is a round trip and some microseconds a key; history
// comes in turns of 100 ms with up to a thousand revisions.
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

// nodes makes nodes of events, one for each revision after a position, and returns how far they go.
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
			continue // had it before
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

// revisions cuts events, which are in order, into those of one revision each.
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
