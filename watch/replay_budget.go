package watch

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Limits of the memory of replays, in bytes.
const (
	// For the responses to all replays of a Watcher, encoded and decoded.
	maxReplayMemory = 64 << 20
	minReservation  = 512 << 10 // minimum for a replay of unknown size
	// Not available to reservations of unknown size above minReservation.
	smallReservationMemory = 16 << 20
	copiesPerResponse      = 2       // a response is in memory twice: encoded and decoded
	fragmentReservation    = 8 << 20 // for a replay in fragments, which etcd makes 2 MiB large
	reclaimInterval        = 200 * time.Millisecond
)

// replayBudget bounds the memory of all replays of a Watcher. It grants reservations in order.
// While one waits, it revokes those whose consumer has been busy with one batch for
// reclaimInterval.
type replayBudget struct {
	mu      sync.Mutex
	free    int64
	waiting []*reservation
	granted map[*reservation]struct{}
}

func newReplayBudget() *replayBudget {
	return &replayBudget{free: maxReplayMemory, granted: make(map[*reservation]struct{})}
}

// reservation is the share of one replay, and the part of a response that was not delivered yet.
type reservation struct {
	budget *replayBudget
	ready  chan struct{} // closed when it is granted

	// Guarded by budget.mu.
	size      int64
	entries   []*logEntry
	busySince time.Time // when the consumer got its batch; zero while it has none
	cancel    func()    // ends the stream
}

// reserve waits for a reservation. A size of 0 means unknown: the reservation then gets half of
// what is free beyond smallReservationMemory, but at least minReservation. If a response does not
// fit, the replay requests it again, which takes about 100 ms in etcd, with a larger reservation or
// in fragments. The caller must call release.
func (b *replayBudget) reserve(ctx context.Context, size int64) (*reservation, error) {
	r := &reservation{budget: b, size: min(size, maxReplayMemory), ready: make(chan struct{}), cancel: func() {}}
	b.mu.Lock()
	b.waiting = append(b.waiting, r)
	b.grant()
	b.mu.Unlock()
	reclaim := time.NewTicker(reclaimInterval)
	defer reclaim.Stop()
	for {
		select {
		case <-r.ready:
			return r, nil
		case <-reclaim.C:
			b.reclaim()
		case <-ctx.Done():
			r.release()
			return nil, ctx.Err()
		}
	}
}

// grant grants waiting reservations, in order, while there is room. b.mu must be held.
func (b *replayBudget) grant() {
	for len(b.waiting) > 0 {
		r := b.waiting[0]
		size := r.size
		if size == 0 {
			size = max(minReservation, (b.free-smallReservationMemory)/2)
		}
		if size > b.free {
			return
		}
		r.size = size
		b.free -= size
		b.waiting = b.waiting[1:]
		b.granted[r] = struct{}{}
		close(r.ready)
	}
}

// reclaim revokes the reservations whose consumer has been busy with one batch for reclaimInterval.
// That batch no longer counts.
func (b *replayBudget) reclaim() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for r := range b.granted {
		if !r.busySince.IsZero() && time.Since(r.busySince) >= reclaimInterval {
			b.drop(r)
		}
	}
}

// drop ends a reservation. b.mu must be held.
func (b *replayBudget) drop(r *reservation) {
	if _, ok := b.granted[r]; ok {
		delete(b.granted, r)
		b.free += r.size
		r.entries = nil
		r.cancel()
	}
	if at := slices.Index(b.waiting, r); at >= 0 {
		b.waiting = slices.Delete(b.waiting, at, at+1)
	}
	b.grant()
}

// release ends the reservation.
func (r *reservation) release() {
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	r.budget.drop(r)
}

// maxResponseBytes returns the maximum size of a response.
func (r *reservation) maxResponseBytes() int { return int(r.size / copiesPerResponse) }

// setEntries stores entries for the consumer. stop ends the stream if the reservation is revoked.
func (r *reservation) setEntries(entries []*logEntry, stop func()) {
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	r.entries, r.cancel = entries, stop
}

// next returns the next entry for the consumer, which counts as busy from now on, or nil after the
// last. ok is false if the reservation was revoked.
func (r *reservation) next() (n *logEntry, ok bool) {
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	r.busySince = time.Time{}
	if _, ok := r.budget.granted[r]; !ok {
		return nil, false
	}
	if len(r.entries) == 0 {
		return nil, true
	}
	n, r.entries[0] = r.entries[0], nil
	r.entries = r.entries[1:]
	r.busySince = time.Now()
	return n, true
}
