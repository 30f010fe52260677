package lock

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// maxTurns is how many turns in a row the goroutines of one process take while another process
// waits.
const maxConsecutiveTurns = 16

// localQueue is the queue of the goroutines of one process that want the same exclusive lock. Only
// its head has a key in etcd's queue; it waits there or holds. The others cost etcd nothing. The
// head hands its waiter and key on to the next goroutine, or removes them, and the next goroutine
// enqueues anew. The order is first come, first served. The zero value with a waiting counter is
// ready for use.
type localQueue struct {
	waiting *atomic.Int64 // number of goroutines that wait

	mu               sync.Mutex
	occupied         bool
	followers        []chan *waiter
	consecutiveTurns int    // turns in a row while another process waits
	oldest           *entry // first entry of etcd's queue when the head was enqueued; nil if not known
	holder           *hold  // the hold of the head; nil while it waits
}

// join waits until the caller is at the head. It returns the waiter that was handed on, or nil if
// there is none.
func (n *localQueue) join(ctx context.Context) (*waiter, error) {
	n.mu.Lock()
	if !n.occupied {
		n.occupied = true
		n.mu.Unlock()
		return nil, nil //nolint:nilnil // at the head, with no waiter yet
	}
	turn := make(chan *waiter, 1)
	n.followers = append(n.followers, turn)
	n.waiting.Add(1)
	defer n.waiting.Add(-1)
	n.mu.Unlock()
	select {
	case p := <-turn:
		return p, nil
	case <-ctx.Done():
	}
	n.mu.Lock()
	i := slices.Index(n.followers, turn)
	if i >= 0 {
		n.followers = slices.Delete(n.followers, i, i+1)
	}
	n.mu.Unlock()
	if i < 0 { // the caller already is at the head
		n.releaseHead(<-turn)
	}
	return nil, retry.ContextError(ctx)
}

// setFront records the first entry of etcd's queue, nil if it is not known.
func (n *localQueue) setOldest(front *entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.oldest = front
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

// head returns the hold of the head, or nil if no goroutine of this process holds, and the first
// entry of etcd's queue, or nil if it is not known.
func (n *localQueue) state() (holder *hold, front *entry) {
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

// handOff hands the waiter of a released hold to the next goroutine of the process. It reports
// false if none waits or if it is the turn of another process. The caller then still is at the
// head.
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

// pass makes the next goroutine the head. The caller holds n.mu.
func (n *localQueue) wakeNext(w *waiter) {
	next := n.followers[0]
	n.followers = slices.Delete(n.followers, 0, 1)
	next <- w
}

// countTurn counts a turn. contended says that another process waits.
func (n *localQueue) countTurn(contended bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if contended {
		n.consecutiveTurns++
	} else {
		n.consecutiveTurns = 0
	}
}

// began records the hold of the head. fresh says that its waiter was not held before.
func (n *localQueue) setHolder(h *hold, fresh bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.holder, n.oldest = h, nil
	if fresh {
		n.consecutiveTurns = 0
	}
}
