package lock

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// maxTurns is how many turns in a row the goroutines of one process take among themselves while another process waits.
const maxTurns = 16

// localQueue is where the goroutines of one process stand that want the same exclusive lock. One of them is at the head: it
// waits in etcd's queue, or holds. The others cost etcd nothing. The head hands its waiter on, key and all, or leaves
// and lets the next one enqueue anew. First come, first served. The zero value with a waiting counter is ready for use.
type localQueue struct {
	waiting *atomic.Int64 // how many wait

	mu     sync.Mutex
	busy   bool
	next   []chan *waiter
	turns  int    // taken in a row while another process waits
	front  *entry // of etcd's queue when the head was enqueued, nil if that is not known
	holder *hold  // at the head
}

// join waits to be at the head, and returns the waiter that was handed on, nil where there is none.
func (n *localQueue) join(ctx context.Context) (*waiter, error) {
	n.mu.Lock()
	if !n.busy {
		n.busy = true
		n.mu.Unlock()
		return nil, nil //nolint:nilnil // at the head, with no waiter yet
	}
	turn := make(chan *waiter, 1)
	n.next = append(n.next, turn)
	n.waiting.Add(1)
	defer n.waiting.Add(-1)
	n.mu.Unlock()
	select {
	case p := <-turn:
		return p, nil
	case <-ctx.Done():
	}
	n.mu.Lock()
	i := slices.Index(n.next, turn)
	if i >= 0 {
		n.next = slices.Delete(n.next, i, i+1)
	}
	n.mu.Unlock()
	if i < 0 { // too late to leave: it is our turn
		n.releaseHead(<-turn)
	}
	return nil, retry.ContextError(ctx)
}

// setFront notes whom the head waits for in the end, nil if that is not known.
func (n *localQueue) setFront(front *entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.front = front
}

// tryJoin is join that does not wait.
func (n *localQueue) tryJoin() (ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy {
		return false
	}
	n.busy = true
	return true
}

// head returns the hold at the head, nil if nobody of this process holds, and then who is known to hold.
func (n *localQueue) head() (holder *hold, front *entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.holder, n.front
}

// releaseHead leaves the head and hands w on, which may be nil; if nobody waits, w is discarded.
func (n *localQueue) releaseHead(w *waiter) {
	n.mu.Lock()
	n.holder, n.front = nil, nil
	passed := len(n.next) > 0
	if passed {
		n.pass(w)
	} else {
		n.busy, n.turns = false, 0
	}
	n.mu.Unlock()
	if !passed && w != nil {
		w.discard()
	}
}

// handOff hands the waiter of a hold that is released on within the process, if somebody waits for it there and it is not
// another process's turn. If it reports false, the caller is still at the head.
func (n *localQueue) handOff(w *waiter) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.next) == 0 || n.turns >= maxTurns {
		return false
	}
	n.holder, n.front = nil, nil
	n.pass(w)
	return true
}

// pass makes the next one the head. The lock is held.
func (n *localQueue) pass(w *waiter) {
	next := n.next[0]
	n.next = slices.Delete(n.next, 0, 1)
	next <- w
}

// countTurn counts a turn.
func (n *localQueue) countTurn(contended bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if contended {
		n.turns++
	} else {
		n.turns = 0
	}
}

// began notes who holds, and whether its waiter is a new one.
func (n *localQueue) began(h *hold, fresh bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.holder, n.front = h, nil
	if fresh {
		n.turns = 0
	}
}
