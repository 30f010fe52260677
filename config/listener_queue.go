package config

import (
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
)

// listenerQueue is a function that is told of events, one at a time, in a goroutine of its own, and what it has not been told yet.
// What is slow or never returns holds up nobody else: its queue is folded when it is long.
type listenerQueue[E any] struct {
	callback func(E)
	compact  func([]E) []E // makes fewer of them
	done     chan struct{} // closed when its goroutine has ended

	mu     sync.Mutex
	queue  []E
	limit  int // how long the queue may be before it is folded
	closed bool
	notify chan struct{} // holds one
}

// maxQueue is how many events may wait before they are folded.
const maxQueue = 256

func newListenerQueue[E any](callback func(E), compact func([]E) []E) *listenerQueue[E] {
	return &listenerQueue[E]{callback: callback, compact: compact, limit: maxQueue, done: make(chan struct{}), notify: make(chan struct{}, 1)}
}

// push adds events to the queue, and returns how many were folded away.
func (q *listenerQueue[E]) push(events ...E) (folded int) {
	q.mu.Lock()
	if !q.closed {
		q.queue = append(q.queue, events...)
		if before := len(q.queue); before > q.limit {
			q.queue = q.compact(q.queue)
			folded = before - len(q.queue)
			q.limit = max(maxQueue, 2*len(q.queue)) // folding costs as much as there is
		}
	}
	q.mu.Unlock()
	q.wake()
	return folded
}

func (q *listenerQueue[E]) wake() {
	select {
	case q.notify <- struct{}{}:
	default:
	}
}

// run tells the function of events until the tail is ended.
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

// close lets no further call begin.
func (q *listenerQueue[E]) close() {
	q.mu.Lock()
	q.closed, q.queue = true, nil
	q.mu.Unlock()
	q.wake()
}

// ended is closed when nothing runs any more.
func (q *listenerQueue[E]) ended() <-chan struct{} { return q.done }

// callSafely calls a user's function, and returns its panic.
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

// insideCallback reports whether the caller runs in a function that this package has called: who waits there for such
// functions to end may wait for itself.
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
