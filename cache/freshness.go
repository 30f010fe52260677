package cache

import (
	"context"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/watch"
)

// freshness finds out as of when nothing is missing, from what a watch says of itself. It belongs to the goroutine that
// follows the watch.
type freshness struct {
	*feed

	status func() watch.Status
	heard  time.Time // the last one that counted
	looked time.Time
}

// sleepThreshold is by how much the wall clock may gain on the monotonic one between two looks before the machine is taken
// to have slept, which the monotonic clock does not count.
const sleepThreshold = time.Second

// look moves the time as of which nothing is missing.
func (p *freshness) look() {
	now := time.Now()
	if !p.looked.IsZero() {
		p.passed(now.Round(0).Sub(p.looked.Round(0)), now.Sub(p.looked))
	}
	p.looked = now
	if st := p.status(); !st.Heard.IsZero() && !st.Heard.Equal(p.heard) {
		p.heard = st.Heard
		p.move(st.Heard.Sub(p.born))
	}
}

// passed counts the time that the machine has slept, of what has passed by the wall clock and by the monotonic one.
func (p *freshness) passed(wall, monotonic time.Duration) {
	if slept := wall - monotonic; slept > sleepThreshold {
		p.asOf.Add(-int64(slept))
	}
}

// move says that nothing was missing at a time.
func (f *feed) move(asOf time.Duration) {
	for {
		last := f.asOf.Load()
		if int64(asOf) <= last || f.asOf.CompareAndSwap(last, int64(asOf)) {
			return
		}
	}
}

// refreshTimeout is how long a read waits for etcd to say whether anything is missing.
const refreshTimeout = time.Second

// refresher asks etcd, for all who read meanwhile, whether anything is missing.
type refresher struct {
	mu   sync.Mutex
	call *refreshCall // under way; nil without one
}

// refreshCall is one such question.
type refreshCall struct {
	began time.Time
	done  chan struct{}
}

// overdue reports whether a question has not been answered in time.
func (r *refresher) overdue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.call != nil && time.Since(r.call.began) > refreshTimeout
}

// refresh asks etcd whether anything is missing, unless that is under way. It returns nil if the watch is not live.
func (f *feed) refresh() *refreshCall {
	f.refresher.mu.Lock()
	defer f.refresher.mu.Unlock()
	if f.refresher.call != nil {
		return f.refresher.call
	}
	if !f.isLive() {
		return nil
	}
	sub, call := f.sub.Load(), &refreshCall{began: time.Now(), done: make(chan struct{})}
	if !f.spawn(func() {
		if sub.Refresh(f.ctx) == nil {
			f.move(sub.Status().Heard.Sub(f.born))
			f.updateClock()
		}
		f.refresher.mu.Lock()
		f.refresher.call = nil
		f.refresher.mu.Unlock()
		close(call.done)
	}) {
		return nil
	}
	f.refresher.call = call
	return call
}

// use is called by reads from memory once half of the bound has passed since etcd last said that nothing is missing. It has
// etcd asked again; once all of the bound has passed it waits for the answer. It reports whether the bound holds.
func (f *feed) use(ctx context.Context) bool {
	call := f.refresh()
	if f.fresh(f.now(), time.Duration(f.asOf.Load())) {
		return true
	}
	if call == nil {
		return false
	}
	var done <-chan struct{}
	if ctx != nil {
		done = ctx.Done()
	}
	timeout := time.NewTimer(time.Until(call.began.Add(refreshTimeout)))
	defer timeout.Stop()
	select {
	case <-call.done:
	case <-timeout.C:
	case <-done:
	}
	return f.fresh(f.now(), time.Duration(f.asOf.Load()))
}

// ages reports whether half of the bound has passed.
func (f *feed) ages(now, asOf time.Duration) bool { return f.reach(now, asOf) > f.staleness/2 }

// updateClock says what time it is to what depends on it.
func (f *feed) updateClock() (now, asOf time.Duration) {
	f.clocking.Lock()
	defer f.clocking.Unlock()
	now, asOf = f.now(), time.Duration(f.asOf.Load())
	f.clock(now, asOf)
	return now, asOf
}
