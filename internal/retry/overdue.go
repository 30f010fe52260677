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

// overdueTimer tells that an attempt is overdue. It is used again, so that a call does not allocate one.
type overdueTimer struct {
	timer   *time.Timer
	engine  *Engine
	attempt *wire.Attempt
}

// overdueTimers holds timers that are stopped and have not fired.
//
//nolint:gochecknoglobals // a pool is shared by nature
var overdueTimers sync.Pool

// startOverdueTimer starts a timer for an attempt. stop must follow.
func startOverdueTimer(e *Engine, a *wire.Attempt) *overdueTimer {
	t, ok := overdueTimers.Get().(*overdueTimer)
	if !ok {
		t = &overdueTimer{engine: e, attempt: a}
		t.timer = time.AfterFunc(overdueTimeout, func() { t.engine.Overdue(t.attempt.Peer()) })
		return t
	}
	t.engine, t.attempt = e, a
	t.timer.Reset(overdueTimeout)
	return t
}

// stop stops the timer. One that has fired may still be in use.
func (t *overdueTimer) stop() {
	if t.timer.Stop() {
		t.engine, t.attempt = nil, nil
		overdueTimers.Put(t)
	}
}
