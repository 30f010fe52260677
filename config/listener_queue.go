package config

import (
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/etcdkit/etcdkit/internal/notify"
)

// listenerQueue calls a function with events, one at a time and in order, on a goroutine of its
// own. A slow function delays nobody else: a queue longer than limit is compacted.
type listenerQueue[E any] struct {
	callback func(E)
	compact  func([]E) []E // returns fewer events with the same meaning
	done     chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	queue  []E
	limit  int // length above which the queue is compacted
	closed bool
	notify chan struct{} // capacity 1
}

// maxQueue is the initial limit of a listenerQueue.
const maxQueue = 256

func newListenerQueue[E any](callback func(E), compact func([]E) []E) *listenerQueue[E] {
	return &listenerQueue[E]{callback: callback, compact: compact, limit: maxQueue, done: make(chan struct{}), notify: make(chan struct{}, 1)}
}

// push appends events to the queue and returns how many were dropped by compaction.
func (q *listenerQueue[E]) push(events ...E) (merged int) {
	q.mu.Lock()
	if !q.closed {
		q.queue = append(q.queue, events...)
		if before := len(q.queue); before > q.limit {
			q.queue = q.compact(q.queue)
			merged = before - len(q.queue)
			q.limit = max(maxQueue, 2*len(q.queue)) // compaction is linear in the length
		}
	}
	q.mu.Unlock()
	notify.Token(q.notify)
	return merged
}

// run calls the function for each event until close is called.
func (q *listenerQueue[E]) run() {
	defer close(q.done)
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return
		}
		if len(q.queue) == 0 {
			q.queue = nil
			q.mu.Unlock()
			<-q.notify
			continue
		}
		e := q.queue[0]
		var none E
		q.queue[0] = none
		q.queue = q.queue[1:]
		q.mu.Unlock()
		q.callback(e)
	}
}

// close discards the queue and starts no further call.
func (q *listenerQueue[E]) close() {
	q.mu.Lock()
	q.closed, q.queue = true, nil
	q.mu.Unlock()
	notify.Token(q.notify)
}

// stopped returns a channel that is closed once no call is running.
func (q *listenerQueue[E]) stopped() <-chan struct{} { return q.done }

// callSafely calls f and returns its panic as an error.
//
//go:noinline
func callSafely(f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	f()
	return nil
}

// insideCallback reports whether the caller was called, directly or not, by callSafely. Such a
// caller must not wait for callbacks to end, because it would wait for itself.
func insideCallback() bool {
	pcs := make([]uintptr, 64)
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs)
		frames := runtime.CallersFrames(pcs[:n])
		for more := n > 0; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if strings.HasSuffix(f.Function, "etcdkit/config.callSafely") {
				return true
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}
