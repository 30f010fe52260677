package cache

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/etcdkit/etcdkit/internal/notify"
	"github.com/etcdkit/etcdkit/kv"
)

// Follow calls f for each existing entry, as if it had just been created, and then for each change.
// The calls are in order, one at a time, on a goroutine of their own. Old is the entry of the
// previous call for the key. A value that does not decode counts as none: f is called as if the
// entry had been deleted. No call starts after stop has returned, but one may still be running; f
// itself may call stop. A panic of f is recovered and logged, and the calls continue.
//
// A slow f does not block the replica or other followers. If more than 4096 changes wait for it,
// the changes of each key are merged into one. Use [Replica.FollowRevisions] if it matters which
// changes belong together.
func (r *Replica[T]) Follow(f func(Change[T])) (stop func()) {
	if f == nil {
		return func() {}
	}
	return r.startFollower(func(follower *follower[T], rev revision[T]) {
		for _, c := range rev.changes {
			if follower.stopped() {
				return
			}
			r.callSafely(func() { f(c) })
		}
	})
}

// FollowRevisions is like [Replica.Follow], but passes all changes of one revision in one call. The
// first call has all existing entries and is made even if there are none. Each further call has the
// changes of one transaction, or of several if f is slow and they were merged. Before a call, the
// replica itself shows that revision or a later one. changes is shared and must not be modified.
func (r *Replica[T]) FollowRevisions(f func(rev int64, changes []Change[T])) (stop func()) {
	if f == nil {
		return func() {}
	}
	return r.startFollower(func(_ *follower[T], rev revision[T]) {
		r.callSafely(func() { f(rev.rev, rev.changes) })
	})
}

// callSafely calls f, and recovers and logs a panic.
func (r *Replica[T]) callSafely(f func()) {
	defer func() {
		if v := recover(); v != nil {
			r.log.ErrorContext(context.WithoutCancel(r.ctx), "replica callback panicked", "dir", r.dir, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
	}()
	f()
}

// revision contains the changes of one revision.
type revision[T any] struct {
	rev     int64
	changes []Change[T]
}

// follower is a queue of changes for a callback.
type follower[T any] struct {
	deliver func(*follower[T], revision[T])

	mu             sync.Mutex
	queue          []revision[T]
	count          int
	mergeThreshold int // count above which the queue is merged
	ended          bool
	notify         chan struct{} // signals a change of queue or end
}

// maxQueuedChanges is the number of changes that may wait before they are merged.
const maxQueuedChanges = 4096

// startFollower starts a follower that calls deliver for each revision.
func (r *Replica[T]) startFollower(deliver func(*follower[T], revision[T])) (stop func()) {
	f := &follower[T]{deliver: deliver, mergeThreshold: maxQueuedChanges, notify: make(chan struct{}, 1)}
	r.followersMu.Lock()
	defer r.followersMu.Unlock()
	if r.followersClosed {
		return func() {}
	}
	r.data.mu.Lock()
	snapshot, rev := r.data.acquireLocked(), r.rev.Load()
	r.followers[f] = struct{}{}
	r.data.mu.Unlock()
	r.followerGoroutines.Go(func() {
		first := revision[T]{rev: rev}
		for _, v := range r.data.list(snapshot) {
			r.verifyVersion(v)
			first.changes = append(first.changes, Change[T]{Old: kv.Entry[T]{Key: v.key}, New: v.entry()})
		}
		r.data.release(snapshot)
		for ok := !f.stopped(); ok; first, ok = f.next() {
			f.deliver(f, first)
		}
	})
	return func() { r.removeFollower(f) }
}

// removeFollower ends a follower.
func (r *Replica[T]) removeFollower(f *follower[T]) {
	r.data.mu.Lock()
	delete(r.followers, f)
	r.data.mu.Unlock()
	f.mu.Lock()
	f.ended, f.queue = true, nil
	f.mu.Unlock()
	notify.Token(f.notify)
}

// endFollowers ends all followers, prevents new ones, and waits until all have returned, including
// those that were stopped before.
func (r *Replica[T]) endFollowers() {
	r.followersMu.Lock()
	r.followersClosed = true
	r.followersMu.Unlock()
	r.data.mu.Lock()
	all := make([]*follower[T], 0, len(r.followers))
	for f := range r.followers {
		all = append(all, f)
	}
	r.data.mu.Unlock()
	for _, f := range all {
		r.removeFollower(f)
	}
	r.followerGoroutines.Wait()
}

// notifyFollowers queues the changes of the last snapshot for all followers. The caller holds
// data.mu.
func (r *Replica[T]) notifyFollowers(rev int64) {
	if len(r.followers) == 0 {
		return
	}
	before, after := r.data.changes(r.data.snapshot.Load())
	if len(after) == 0 {
		return
	}
	changes := make([]Change[T], len(after))
	for i := range after {
		changes[i] = newChange(before[i], after[i])
	}
	for f := range r.followers {
		f.push(revision[T]{rev: rev, changes: changes})
	}
}

// newChange returns the change from one version to another. Either may be nil.
func newChange[T any](before, after *version[T]) (c Change[T]) {
	if before != nil {
		c.Old = before.entry()
		c.New.Key = before.key
	}
	if after != nil {
		c.New = after.entry()
		c.Old.Key = after.key
	}
	return c
}

// push queues a revision.
func (f *follower[T]) push(r revision[T]) {
	f.mu.Lock()
	if !f.ended {
		f.queue = append(f.queue, r)
		if f.count += len(r.changes); f.count > f.mergeThreshold && len(f.queue) > 1 {
			f.queue = []revision[T]{merge(f.queue)}
			f.count = len(f.queue[0].changes)
			// Merging costs as much as the length of the queue.
			f.mergeThreshold = max(maxQueuedChanges, 2*f.count)
		}
	}
	f.mu.Unlock()
	notify.Token(f.notify)
}

// next waits for the next revision. It returns false if the follower has ended.
func (f *follower[T]) next() (revision[T], bool) {
	for {
		f.mu.Lock()
		if f.ended {
			f.mu.Unlock()
			return revision[T]{}, false
		}
		if len(f.queue) > 0 {
			r := f.queue[0]
			f.queue[0] = revision[T]{}
			if f.queue = f.queue[1:]; len(f.queue) == 0 {
				f.queue = nil
			}
			f.count -= len(r.changes)
			f.mu.Unlock()
			return r, true
		}
		f.mu.Unlock()
		<-f.notify
	}
}

func (f *follower[T]) stopped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}

// merge merges several revisions into one.
func merge[T any](all []revision[T]) revision[T] {
	var out []Change[T]
	index := make(map[string]int) // of out, by key
	for _, r := range all {
		for _, c := range r.changes {
			key := c.New.Key
			if i, ok := index[key]; ok {
				out[i].New = c.New
				continue
			}
			index[key] = len(out)
			out = append(out, c)
		}
	}
	kept := out[:0]
	for _, c := range out {
		if c.Old.ModRevision != 0 || c.New.ModRevision != 0 {
			kept = append(kept, c)
		}
	}
	clear(out[len(kept):])
	return revision[T]{rev: all[len(all)-1].rev, changes: kept}
}
