package retry

import (
	"sync"
	"time"
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
