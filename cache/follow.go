package cache

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/etcdkit/etcdkit/kv"
)

// Follow calls f for each entry that is there, as one that was created, and then for each change, in order, one at a time, in
// a goroutine of its own. Old is what f was told last. A value that does not decode counts as none: f is told that the entry is gone.
// No call begins after stop has returned; one may still run, and f itself may call stop. A panic of f is
// contained and logged, and the next change comes.
//
// An f that is slow holds up nobody: when more than 4096 changes wait for it, the changes of each key become one. See
// [Replica.FollowRevisions] where it matters which changes belong together.
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

// FollowRevisions is [Replica.Follow] with all changes of one revision in one call: first everything that is there, even if
// that is nothing, then what each transaction has changed. Before a call, the replica itself shows that revision or a later
// one. changes is shared and read-only.
func (r *Replica[T]) FollowRevisions(f func(rev int64, changes []Change[T])) (stop func()) {
	if f == nil {
		return func() {}
	}
	return r.followers(func(_ *follower[T], rev revision[T]) {
		r.contained(func() { f(rev.rev, rev.changes) })
	})
}

// contained calls f, and logs a panic.
func (r *Replica[T]) contained(f func()) {
	defer func() {
		if v := recover(); v != nil {
			r.log.ErrorContext(context.WithoutCancel(r.ctx), "function that a replica has called panicked", "dir", r.dir, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
	}()
	f()
}

// revision is the changes of one revision.
type revision[T any] struct {
	rev     int64
	changes []Change[T]
}

// follower is a function that is told of changes, and what it has not been told yet.
type follower[T any] struct {
	out func(*follower[T], revision[T])

	mu    sync.Mutex
	queue []revision[T]
	count int
	most  int // how much count may be before the queue is folded
	end   bool
	bell  chan struct{} // holds one
}

// followMost is how many changes may wait before they are folded.
const followMost = 4096

// followers starts a follower.
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

// endFollowers ends all followers, lets none begin, and waits, also for those that were stopped before.
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

// tell gives the step that was just taken to all followers. The caller holds the table's lock.
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

// change is from one node to another, either of which may be nil.
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

// push adds a revision to what the follower will be told.
func (t *follower[T]) push(r revision[T]) {
	t.mu.Lock()
	if !t.end {
		t.queue = append(t.queue, r)
		if t.count += len(r.changes); t.count > t.most && len(t.queue) > 1 {
			t.queue = []revision[T]{folded(t.queue)}
			t.count = len(t.queue[0].changes)
			t.most = max(followMost, 2*t.count) // folding costs as much as there is
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

// take waits for the next revision; false is the end.
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

// folded is several revisions as one.
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
