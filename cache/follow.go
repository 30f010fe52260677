package cache

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

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
	return r.followers(func(t *follower[T], rev revision[T]) {
		for _, c := range rev.changes {
			if t.stopped() {
				return
			}
			r.contained(func() { f(c) })
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
	return r.followers(func(_ *follower[T], rev revision[T]) {
		r.contained(func() { f(rev.rev, rev.changes) })
	})
}

// contained calls f, and recovers and logs a panic.
func (r *Replica[T]) contained(f func()) {
	defer func() {
		if v := recover(); v != nil {
			r.log.ErrorContext(context.WithoutCancel(r.ctx), "function that a replica has called panicked", "dir", r.dir, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
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
	out func(*follower[T], revision[T])

	mu    sync.Mutex
	queue []revision[T]
	count int
	most  int // count above which the queue is merged
	end   bool
	bell  chan struct{} // signals a change of queue or end
}

// followMost is the number of changes that may wait before they are merged.
const followMost = 4096

// followers starts a follower that calls out for each revision.
func (r *Replica[T]) followers(out func(*follower[T], revision[T])) (stop func()) {
	t := &follower[T]{out: out, most: followMost, bell: make(chan struct{}, 1)}
	r.joining.Lock()
	defer r.joining.Unlock()
	if r.over {
		return func() {}
	}
	r.table.mu.Lock()
	step, rev := r.table.look(), r.rev.Load()
	r.tails[t] = struct{}{}
	r.table.mu.Unlock()
	r.telling.Go(func() {
		first := revision[T]{rev: rev}
		for _, n := range r.table.all(step) {
			r.verifyNode(n)
			first.changes = append(first.changes, Change[T]{Old: kv.Entry[T]{Key: n.key}, New: n.entry()})
		}
		r.table.end(step)
		for ok := !t.stopped(); ok; first, ok = t.take() {
			t.out(t, first)
		}
	})
	return func() { r.leave(t) }
}

// leave ends a follower.
func (r *Replica[T]) leave(t *follower[T]) {
	r.table.mu.Lock()
	delete(r.tails, t)
	r.table.mu.Unlock()
	t.mu.Lock()
	t.end, t.queue = true, nil
	t.mu.Unlock()
	t.ring()
}

// endFollowers ends all followers, prevents new ones, and waits until all have returned, including
// those that were stopped before.
func (r *Replica[T]) endFollowers() {
	r.joining.Lock()
	r.over = true
	r.joining.Unlock()
	r.table.mu.Lock()
	all := make([]*follower[T], 0, len(r.tails))
	for t := range r.tails {
		all = append(all, t)
	}
	r.table.mu.Unlock()
	for _, t := range all {
		r.leave(t)
	}
	r.telling.Wait()
}

// tell queues the changes of the last step for all followers. The caller holds table.mu.
func (r *Replica[T]) tell(rev int64) {
	if len(r.tails) == 0 {
		return
	}
	before, after := r.table.changed(r.table.step.Load())
	if len(after) == 0 {
		return
	}
	changes := make([]Change[T], len(after))
	for i := range after {
		changes[i] = change(before[i], after[i])
	}
	for t := range r.tails {
		t.push(revision[T]{rev: rev, changes: changes})
	}
}

// change returns the Change from one node to another. Either may be nil.
func change[T any](before, after *node[T]) (c Change[T]) {
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
func (t *follower[T]) push(r revision[T]) {
	t.mu.Lock()
	if !t.end {
		t.queue = append(t.queue, r)
		if t.count += len(r.changes); t.count > t.most && len(t.queue) > 1 {
			t.queue = []revision[T]{folded(t.queue)}
			t.count = len(t.queue[0].changes)
			t.most = max(followMost, 2*t.count) // merging costs as much as the length of the queue
		}
	}
	t.mu.Unlock()
	t.ring()
}

func (t *follower[T]) ring() {
	select {
	case t.bell <- struct{}{}:
	default:
	}
}

// take waits for the next revision. It returns false if the follower has ended.
func (t *follower[T]) take() (revision[T], bool) {
	for {
		t.mu.Lock()
		if t.end {
			t.mu.Unlock()
			return revision[T]{}, false
		}
		if len(t.queue) > 0 {
			r := t.queue[0]
			t.queue[0] = revision[T]{}
			if t.queue = t.queue[1:]; len(t.queue) == 0 {
				t.queue = nil
			}
			t.count -= len(r.changes)
			t.mu.Unlock()
			return r, true
		}
		t.mu.Unlock()
		<-t.bell
	}
}

func (t *follower[T]) stopped() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.end
}

// folded merges several revisions into one.
func folded[T any](all []revision[T]) revision[T] {
	var out []Change[T]
	at := make(map[string]int)
	for _, r := range all {
		for _, c := range r.changes {
			key := c.New.Key
			if i, ok := at[key]; ok {
				out[i].New = c.New
				continue
			}
			at[key] = len(out)
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
