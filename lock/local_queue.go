package lock

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// maxConsecutiveTurns is the maximum number of turns in a row that the goroutines of one process
// take while another process waits.
const maxConsecutiveTurns = 16

// localQueue is the queue of the goroutines of one [Locker] that want the same exclusive lock,
// first come, first served. Only its head has a key in etcd's queue; it waits there or holds the
// lock. The others cost etcd nothing.
//
// On release, the head hands its waiter with the key to the next goroutine, whose turn costs one
// RPC. If none waits, or after maxConsecutiveTurns, it deletes the key, and the next goroutine
// enqueues a new one behind the other processes.
type localQueue struct {
	q *queue

	mu               sync.Mutex
	occupied         bool           // some goroutine is the head
	followers        []chan *waiter // the goroutines behind the head
	consecutiveTurns int            // turns in a row while another process waits
	oldest           *entry         // first entry of etcd's queue when the head joined it, or nil
	holder           *hold          // the hold of the head; nil while it waits
}

// acquireLocally waits in the local queue, and then in etcd's queue, for a grant. It uses the
// waiter that it was handed, if any, or enqueues one. On an error it leaves the local queue, and
// hands the waiter to the next goroutine if it is still usable.
func acquireLocally(ctx context.Context, q *queue, kind *waiterKind) (*waiter, error) {
	n := &q.local
	w, err := n.join(ctx)
	if err != nil {
		return nil, q.addHolder(ctx, kind.name, err)
	}
	if w != nil && w.lostErr() != nil {
		w.discard()
		w = nil
	}
	if w == nil {
		if w, err = q.enqueue(ctx, kind); err != nil {
			n.releaseHead(nil)
			return nil, err
		}
		n.setOldest(w.ahead.oldest())
	}
	if err = w.awaitGrant(ctx); err == nil && w.wasHeld {
		err = n.takeTurn(ctx, w)
	}
	if err == nil {
		return w, nil
	}
	if _, blocked := errors.AsType[*BlockedError](err); blocked || w.lostErr() != nil {
		w.discard()
		w = nil
	}
	n.releaseHead(w)
	return nil, q.addHolder(ctx, kind.name, &cleanedUpError{err})
}

// tryLocally is like acquireLocally, but does not wait.
func tryLocally(ctx context.Context, q *queue, kind *waiterKind) (*waiter, error) {
	n := &q.local
	if !n.tryJoin() {
		return nil, q.localLockedError(kind.name)
	}
	w, err := q.createWaiter(ctx, kind, (*waiter).enqueueIfEmpty)
	if err != nil {
		n.releaseHead(nil)
	}
	return w, err
}

// join waits until the caller is at the head. It returns the waiter that the head before has handed
// over, or nil if there is none.
func (n *localQueue) join(ctx context.Context) (*waiter, error) {
	n.mu.Lock()
	if !n.occupied {
		n.occupied = true
		n.mu.Unlock()
		return nil, nil //nolint:nilnil // at the head, with no waiter yet
	}
	granted := make(chan *waiter, 1)
	n.followers = append(n.followers, granted)
	waiting := &n.q.l.counters.waiting
	waiting.Add(1)
	defer waiting.Add(-1)
	n.mu.Unlock()
	select {
	case w := <-granted:
		return w, nil
	case <-ctx.Done():
	}
	n.mu.Lock()
	i := slices.Index(n.followers, granted)
	if i >= 0 {
		n.followers = slices.Delete(n.followers, i, i+1)
	}
	n.mu.Unlock()
	if i < 0 { // the caller already is at the head
		n.releaseHead(<-granted)
	}
	return nil, retry.ContextError(ctx)
}

// tryJoin takes the head if the queue is empty. It does not wait.
func (n *localQueue) tryJoin() (ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.occupied {
		return false
	}
	n.occupied = true
	return true
}

// takeTurn begins the turn of a waiter that another goroutine has held. It puts the key again,
// which makes a new token and a new guard. It costs one RPC, which also shows whether another
// process waits.
func (n *localQueue) takeTurn(ctx context.Context, w *waiter) error {
	resp, err := w.rewriteKey(ctx, w.value, newestOp(w.q.prefix, exclusivePageSize))
	if err != nil {
		return err
	}
	w.token = w.modRev
	n.countTurn(parsePage(w.q.prefix, w.key, 0, resp.rangeResponse(1)).mayHaveNewer(w.createRev))
	w.q.l.counters.turns.Add(1)
	return nil
}

// countTurn counts a turn. contended reports whether another process waits.
func (n *localQueue) countTurn(contended bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if contended {
		n.consecutiveTurns++
	} else {
		n.consecutiveTurns = 0
	}
}

// setOldest records the first entry of etcd's queue, nil if it is not known.
func (n *localQueue) setOldest(oldest *entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.oldest = oldest
}

// setHolder records the hold of the head. isNew reports whether it is the first one of its waiter.
func (n *localQueue) setHolder(h *hold, isNew bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.holder, n.oldest = h, nil
	if isNew {
		n.consecutiveTurns = 0
	}
}

// state returns the hold of the head, or nil if no goroutine of this process holds, and the first
// entry of etcd's queue, or nil if it is not known.
func (n *localQueue) state() (holder *hold, oldest *entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.holder, n.oldest
}

// releaseHead leaves the head and hands w, which may be nil, to the next goroutine. If none waits,
// it discards w.
func (n *localQueue) releaseHead(w *waiter) {
	n.mu.Lock()
	n.holder, n.oldest = nil, nil
	passed := len(n.followers) > 0
	if passed {
		n.wakeNext(w)
	} else {
		n.occupied, n.consecutiveTurns = false, 0
	}
	n.mu.Unlock()
	if !passed && w != nil {
		w.discard()
	}
}

// handOff hands the waiter of a released hold to the next goroutine. It returns false if none waits
// or if it is the turn of another process; the caller then is still at the head.
func (n *localQueue) handOff(w *waiter) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.followers) == 0 || n.consecutiveTurns >= maxConsecutiveTurns {
		return false
	}
	n.holder, n.oldest = nil, nil
	n.wakeNext(w)
	return true
}

// wakeNext makes the next goroutine the head. The caller holds n.mu.
func (n *localQueue) wakeNext(w *waiter) {
	next := n.followers[0]
	n.followers = slices.Delete(n.followers, 0, 1)
	next <- w
}
