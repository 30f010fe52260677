package watch

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/notify"
	"github.com/etcdkit/etcdkit/internal/watchstream"
)

// broadcasterKey identifies a broadcaster. Requests with equal keys share one.
type broadcasterKey struct {
	watchstream.Spec

	ns        string
	hasHidden bool
}

// broadcaster is a server-side watch and the log of its changes. Only the broadcaster's goroutine
// reads the stream and writes the log. It never waits for a consumer.
type broadcaster struct {
	core     *core
	key      broadcasterKey
	span     span
	selector string // the selector of the first watch

	ctx    context.Context //nolint:containedctx // ends the goroutine
	cancel context.CancelFunc
	refs   int // guarded by core.mu

	changed *notify.Broadcast // notified when consumers must check the broadcaster
	// end of the log, zero at first; set under mu, after the entries
	logEnd atomic.Pointer[position]
	// nil at first; a new one is set under mu, with its gap
	history atomic.Pointer[historyID]
	// number of waiters for logEnd or completeAt to advance
	waiters atomic.Int64
	// when etcd last answered, in Unix nanoseconds; 0 before
	lastResponse atomic.Int64
	// the log has every change made by then; nil if unknown
	completeAt     atomic.Pointer[time.Time]
	progressNeeded chan struct{} // holds one: a progress report is needed now

	mu       sync.Mutex
	eventLog eventLog
	state    State
	since    time.Time
	lastErr  error // the last error
	reopened uint64
	finalErr error // the error that ended the broadcaster and all its watches

	reconnectState // used by the broadcaster's goroutine only
}

func newBroadcaster(c *core, r *request) *broadcaster {
	b := &broadcaster{
		core: c, key: r.key(), span: r.span, selector: r.selector.String(),
		progressNeeded: make(chan struct{}, 1), changed: notify.NewBroadcast(), eventLog: newEventLog(), since: time.Now(),
	}
	b.ctx, b.cancel = context.WithCancel(c.ctx)
	b.logEnd.Store(&position{})
	return b
}

// attach places a cursor at the end of the log, which will contain every change after base. ok is
// false if the watch is not live.
func (b *broadcaster) attach(c *cursor) (base position, ok bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.finalErr != nil {
		return position{}, false, b.finalErr
	}
	if b.state != StateLive {
		return position{}, false, nil
	}
	b.eventLog.attach(c)
	return b.position(), true, nil
}

// detach unregisters a cursor.
func (b *broadcaster) detach(c *cursor) {
	b.mu.Lock()
	b.eventLog.detach(c)
	b.mu.Unlock()
}

// position returns the end of the log.
func (b *broadcaster) position() position { return *b.logEnd.Load() }

// isCurrentHistory reports whether the log follows the history of p.
func (b *broadcaster) isCurrentHistory(p position) bool {
	id := b.history.Load()
	return id != nil && id.number == p.history
}

// append appends entries to the log. The log then has every change up to the position to.
func (b *broadcaster) append(entries []*logEntry, to position) {
	b.mu.Lock()
	if len(entries) > 0 && entries[0].gap != nil && entries[0].gap.history != nil {
		// with the gap: a cursor placed from now on stands behind it
		b.history.Store(entries[0].gap.history)
	}
	b.eventLog.append(entries)
	b.logEnd.Store(&to)
	if n := b.eventLog.trim(); n > 0 {
		b.core.counters.overflows.Add(n)
	}
	b.mu.Unlock()
	if len(entries) > 0 || b.waiters.Load() > 0 {
		b.changed.Notify()
	}
}

// setState changes the state and wakes the consumers. err is the error that Status returns while
// stale.
func (b *broadcaster) setState(s State, since time.Time, err error) {
	b.mu.Lock()
	if b.state != s {
		b.state, b.since = s, since
	}
	b.lastErr = err
	b.mu.Unlock()
	b.changed.Notify()
}

// setCompleteAt records that the log has every change made by t.
func (b *broadcaster) setCompleteAt(t time.Time) {
	if last := b.completeAt.Load(); last == nil || t.After(*last) {
		b.completeAt.Store(&t)
	}
	if b.waiters.Load() > 0 {
		b.changed.Notify()
	}
}

// end ends the broadcaster and all its watches with err.
func (b *broadcaster) end(err error) {
	b.core.remove(b)
	b.mu.Lock()
	b.finalErr = err
	b.mu.Unlock()
	b.changed.Notify()
}

// finalError returns the error that ended the broadcaster, or nil.
func (b *broadcaster) finalError() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.finalErr
}

// status returns the status of the server-side watch.
func (b *broadcaster) status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Status{State: b.state, Since: b.since, Reopened: b.reopened, Revision: b.position().rev}
	if b.state == StateStale {
		s.Err = b.lastErr
	}
	if completeAt := b.completeAt.Load(); completeAt != nil {
		s.Heard = *completeAt
	}
	return s
}

// listCost estimates how long it takes until all state watches that follow the log have listed.
// some reports whether any watch that follows the log is a state watch, and all whether every one
// is. Watches that do not follow the log do not count, because they join it behind the gap.
func (b *broadcaster) listCost() (cost time.Duration, some, all bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all = true
	for c := range b.eventLog.cursors {
		n := c.indexSize.Load()
		if n < 0 {
			all = false
			continue
		}
		some = true
		cost += estimateListTime(n)
	}
	return cost, some, all
}
