package retry

import (
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// overdueTimeout is the time after which an attempt of a call that may not be hedged is overdue.
const overdueTimeout = time.Second

// overdueHooks holds the functions to call when a member has not responded in time.
type overdueHooks struct {
	mu    sync.Mutex
	hooks map[*func(addr string)]struct{}

	timers sync.Pool // of *overdueTimer that are stopped and have not fired
}

// OnOverdue registers f to be called when any engine of the client finds that the member at an
// address has not responded in time: when the hedge of a call is due or, if the call may not be
// hedged, after overdueTimeout, and when [Engine.ReportOverdue] is called. The address is "" if it
// is not known. f must not block. stop removes f.
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

// ReportOverdue calls the functions of OnOverdue for the member at addr.
func (e *Engine) ReportOverdue(addr string) {
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

// overdueTimer reports an attempt as overdue unless it is stopped before. Timers are reused, so
// that a call does not allocate one.
type overdueTimer struct {
	timer   *time.Timer
	engine  *Engine
	attempt *wire.Attempt
}

// startOverdueTimer starts a timer for an attempt. The caller must stop it. If the engine has no
// hedger, it returns nil, on which stop does nothing.
func startOverdueTimer(e *Engine, a *wire.Attempt) *overdueTimer {
	if e.hedger == nil {
		return nil
	}
	t, ok := e.hedger.overdue.timers.Get().(*overdueTimer)
	if !ok {
		t = &overdueTimer{engine: e, attempt: a}
		t.timer = time.AfterFunc(overdueTimeout, func() { t.engine.ReportOverdue(t.attempt.Peer()) })
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
