package cache

import (
	"context"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/watch"
)

// freshness computes the time up to which no change is missing, from the status of a watch. It
// belongs to the goroutine that follows the watch.
type freshness struct {
	*feed

	status     func() watch.Status
	lastHeard  time.Time // Heard of the last status that was used
	lastUpdate time.Time
}

// suspendThreshold is how much the wall clock may gain on the monotonic clock between two ticks. A
// larger difference means that the machine was suspended, which the monotonic clock does not count.
const suspendThreshold = time.Second

// update advances asOf to the last time that etcd was heard.
func (s *freshness) update() {
	now := time.Now()
	if !s.lastUpdate.IsZero() {
		s.discountSuspension(now.Round(0).Sub(s.lastUpdate.Round(0)), now.Sub(s.lastUpdate))
	}
	s.lastUpdate = now
	if st := s.status(); !st.Heard.IsZero() && !st.Heard.Equal(s.lastHeard) {
		s.lastHeard = st.Heard
		s.advanceAsOf(st.Heard.Sub(s.startedAt))
	}
}

// discountSuspension moves asOf back by the time that the machine was suspended, given the time
// that has passed on each clock.
func (s *freshness) discountSuspension(wall, monotonic time.Duration) {
	if suspended := wall - monotonic; suspended > suspendThreshold {
		s.asOf.Add(-int64(suspended))
	}
}

// advanceAsOf advances asOf to a later time.
func (f *feed) advanceAsOf(asOf time.Duration) {
	for {
		last := f.asOf.Load()
		if int64(asOf) <= last || f.asOf.CompareAndSwap(last, int64(asOf)) {
			return
		}
	}
}

// refreshTimeout is how long a read waits for etcd to report whether a change is missing.
const refreshTimeout = time.Second

// refresher asks etcd whether a change is missing, once for all concurrent readers.
type refresher struct {
	mu   sync.Mutex
	call *refreshCall // in progress; nil if there is none
}

// refreshCall is a request of a refresher.
type refreshCall struct {
	startedAt time.Time
	done      chan struct{}
}

// overdue reports whether the request has not been answered in time.
func (r *refresher) overdue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.call != nil && time.Since(r.call.startedAt) > refreshTimeout
}

// refresh asks etcd whether a change is missing, unless a request is in progress. It returns nil if
// the watch is not live.
func (f *feed) refresh() *refreshCall {
	f.refresher.mu.Lock()
	defer f.refresher.mu.Unlock()
	if f.refresher.call != nil {
		return f.refresher.call
	}
	if !f.isLive() {
		return nil
	}
	sub, call := f.sub.Load(), &refreshCall{startedAt: time.Now(), done: make(chan struct{})}
	if !f.spawn(func() {
		if sub.Refresh(f.ctx) == nil {
			f.advanceAsOf(sub.Status().Heard.Sub(f.startedAt))
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

// ensureFresh is called by reads from memory once half of the bound has passed since etcd was last
// heard. It starts a refresh. If the whole bound has passed, it also waits for the response. It
// reports whether the bound holds.
func (f *feed) ensureFresh(ctx context.Context) bool {
	call := f.refresh()
	if f.isFresh(f.now(), time.Duration(f.asOf.Load())) {
		return true
	}
	if call == nil {
		return false
	}
	timeout := time.NewTimer(time.Until(call.startedAt.Add(refreshTimeout)))
	defer timeout.Stop()
	select {
	case <-call.done:
	case <-timeout.C:
	case <-ctx.Done():
	}
	return f.isFresh(f.now(), time.Duration(f.asOf.Load()))
}

// needsRefresh reports whether half of the bound has passed.
func (f *feed) needsRefresh(now, asOf time.Duration) bool {
	return f.ageAtNextTick(now, asOf) > f.staleness/2
}

// updateClock calls clock with the current times.
func (f *feed) updateClock() (now, asOf time.Duration) {
	f.clocking.Lock()
	defer f.clocking.Unlock()
	now, asOf = f.now(), time.Duration(f.asOf.Load())
	f.onTick(now, asOf)
	return now, asOf
}
