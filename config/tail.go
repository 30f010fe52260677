package config

import (
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
)

// tail is a function that is told of events, one at a time, in a goroutine of its own, and what it has not been told yet.
// What is slow or never returns holds up nobody else: its queue is folded when it is long.
type tail[E any] struct {
	out  func(E)
	fold func([]E) []E // makes fewer of them
	done chan struct{} // closed when its goroutine has ended

	mu    sync.Mutex
	queue []E
	most  int // how long the queue may be before it is folded
	end   bool
	bell  chan struct{} // holds one
}

// queueMost is how many events may wait before they are folded.
const queueMost = 256

func newTail[E any](out func(E), fold func([]E) []E) *tail[E] {
	return &tail[E]{out: out, fold: fold, most: queueMost, done: make(chan struct{}), bell: make(chan struct{}, 1)}
}

// push adds events to the queue, and returns how many were folded away.
func (t *tail[E]) push(events ...E) (folded int) {
	t.mu.Lock()
	if !t.end {
		t.queue = append(t.queue, events...)
		if before := len(t.queue); before > t.most {
			t.queue = t.fold(t.queue)
			folded = before - len(t.queue)
			t.most = max(queueMost, 2*len(t.queue)) // folding costs as much as there is
		}
	}
	t.mu.Unlock()
	t.ring()
	return folded
}

func (t *tail[E]) ring() {
	select {
	case t.bell <- struct{}{}:
	default:
	}
}

// run tells the function of events until the tail is ended.
func (t *tail[E]) run() {
	defer close(t.done)
	for {
		t.mu.Lock()
		if t.end {
			t.mu.Unlock()
			return
		}
		if len(t.queue) == 0 {
			t.queue = nil
			t.mu.Unlock()
			<-t.bell
			continue
		}
		e := t.queue[0]
		var none E
		t.queue[0] = none
		t.queue = t.queue[1:]
		t.mu.Unlock()
		t.out(e)
	}
}

// finish lets no further call begin.
func (t *tail[E]) finish() {
	t.mu.Lock()
	t.end, t.queue = true, nil
	t.mu.Unlock()
	t.ring()
}

// ended is closed when nothing runs any more.
func (t *tail[E]) ended() <-chan struct{} { return t.done }

// told calls a user's function, and returns its panic.
//
//go:noinline
func told(f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	f()
	return nil
}

// insideTold reports whether the caller runs in a function that this package has called: who waits there for such
// functions to end may wait for itself.
func insideTold() bool {
	pcs := make([]uintptr, 64)
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs)
		frames := runtime.CallersFrames(pcs[:n])
		for more := n > 0; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if strings.HasSuffix(f.Function, "etcdkit/config.told") {
				return true
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}
