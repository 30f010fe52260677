package retry

import (
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// overdueTimeout is how long a call that makes no second attempt may be under way before it is overdue.
const overdueTimeout = time.Second

// overdueHooks are called when a member has not answered in time.
type overdueHooks struct {
	mu    sync.Mutex
	hooks map[*func(addr string)]struct{}

	timers sync.Pool // of *overdueTimer that are stopped and have not fired
}

// OnOverdue has f called, by whichever engine of the client finds out, when the member at an address has not answered in
// time: a call that is due for a second attempt, or has been under way for a second, and what [Engine.Overdue] is told.
// The address is "" if it is not known. f must not block. stop ends that.
func (e *Engine) OnOverdue(f func(addr string)) (stop func()) {
	if e.hedger == nil {
		return func() {}
	}
	o, hook := &e.hedger.overdue, &f
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.hooks == nil {
		o.hooks = map[*func(addr string)]struct{}{}
	}
	o.hooks[hook] = struct{}{}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.hooks, hook)
	}
}

// Overdue tells all who want to know that the member at addr has not answered in time.
func (e *Engine) Overdue(addr string) {
	if e.hedger == nil {
		return
	}
	o := &e.hedger.overdue
	o.mu.Lock()
	all := make([]func(string), 0, len(o.hooks))
	for f := range o.hooks {
		all = append(all, *f)
	}
	o.mu.Unlock()
	for _, f := range all {
		f(addr)
	}
}

// overdueTimer reports an attempt as overdue unless it is stopped in time. Timers are reused, so that
// a call does not allocate one.
type overdueTimer struct {
	timer   *time.Timer
	engine  *Engine
	attempt *wire.Attempt
}

// startOverdueTimer starts a timer for an attempt. It returns nil if there is nobody to report to. stop
// must follow.
func startOverdueTimer(e *Engine, a *wire.Attempt) *overdueTimer {
	if e.hedger == nil {
		return nil
	}
	t, ok := e.hedger.overdue.timers.Get().(*overdueTimer)
	if !ok {
		t = &overdueTimer{engine: e, attempt: a}
		t.timer = time.AfterFunc(overdueTimeout, func() { t.engine.Overdue(t.attempt.Peer()) })
		return t
	}
	t.engine, t.attempt = e, a
	t.timer.Reset(overdueTimeout)
	return t
}

// stop stops the timer. A timer that has fired may still be in use and is not reused.
func (t *overdueTimer) stop() {
	if t == nil || !t.timer.Stop() {
		return
	}
	timers := &t.engine.hedger.overdue.timers
	t.engine, t.attempt = nil, nil
	timers.Put(t)
}
