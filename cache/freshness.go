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
	*watchedDir

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
func (d *watchedDir) advanceAsOf(asOf time.Duration) {
	for {
		last := d.asOf.Load()
		if int64(asOf) <= last || d.asOf.CompareAndSwap(last, int64(asOf)) {
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
func (d *watchedDir) refresh() *refreshCall {
	d.refresher.mu.Lock()
	defer d.refresher.mu.Unlock()
	if d.refresher.call != nil {
		return d.refresher.call
	}
	if !d.isLive() {
		return nil
	}
	sub, _ := d.watch.Current()
	call := &refreshCall{startedAt: time.Now(), done: make(chan struct{})}
	if !d.spawn(func() {
		if sub.Refresh(d.ctx) == nil {
			d.advanceAsOf(sub.Status().Heard.Sub(d.startedAt))
			d.updateClock()
		}
		d.refresher.mu.Lock()
		d.refresher.call = nil
		d.refresher.mu.Unlock()
		close(call.done)
	}) {
		return nil
	}
	d.refresher.call = call
	return call
}

// ensureFresh is called by reads from memory once half of the bound has passed since etcd was last
// heard. It starts a refresh. If the whole bound has passed, it also waits for the response. It
// reports whether the bound holds.
func (d *watchedDir) ensureFresh(ctx context.Context) bool {
	call := d.refresh()
	if d.isFresh(d.now(), time.Duration(d.asOf.Load())) {
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
	return d.isFresh(d.now(), time.Duration(d.asOf.Load()))
}

// needsRefresh reports whether half of the bound has passed.
func (d *watchedDir) needsRefresh(now, asOf time.Duration) bool {
	return d.ageAtNextTick(now, asOf) > d.staleness/2
}

// updateClock calls clock with the current times.
func (d *watchedDir) updateClock() (now, asOf time.Duration) {
	d.clocking.Lock()
	defer d.clocking.Unlock()
	now, asOf = d.now(), time.Duration(d.asOf.Load())
	d.onTick(now, asOf)
	return now, asOf
}
