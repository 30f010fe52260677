package lock

import (
	"runtime/debug"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// waitHook calls the function of [WithWaitHook], with no lock held and one call at a time, on a
// goroutine that exists only while there is something to report.
type waitHook struct {
	l *Locker
	f func(name string, d time.Duration)

	mu      sync.Mutex
	pending []func()
	running bool
	idle    *sync.Cond // signalled when running becomes false
}

func newWaitHook(l *Locker, f func(name string, d time.Duration)) *waitHook {
	h := &waitHook{l: l, f: f}
	h.idle = sync.NewCond(&h.mu)
	return h
}

// notify reports an acquisition that began at start. It never blocks.
func (h *waitHook) notify(name string, start time.Time) {
	if h.f == nil {
		return
	}
	d := time.Since(start)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending = append(h.pending, func() { h.call(name, d) })
	if !h.running {
		h.running = true
		go h.run()
	}
}

func (h *waitHook) run() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.pending) > 0 {
		f := h.pending[0]
		h.pending = h.pending[1:]
		h.mu.Unlock()
		f()
		h.mu.Lock()
	}
	h.running = false
	h.idle.Broadcast()
}

// call calls the function and recovers a panic, so that a panic neither ends the process nor keeps
// a lock from being returned.
func (h *waitHook) call(name string, d time.Duration) {
	defer func() {
		if p := recover(); p != nil {
			h.l.logger.Error("wait hook panicked", "name", errs.Short(name), "panic", p, "stack", string(debug.Stack()))
		}
	}()
	h.f(name, d)
}

// wait waits until every acquisition was reported, but at most for d: a hook that blocks, or that
// closes the locker, must not keep Close from returning.
func (h *waitHook) wait(d time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.mu.Lock()
		defer h.mu.Unlock()
		for h.running {
			h.idle.Wait()
		}
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
