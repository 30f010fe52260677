package lock

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// turnsMost is how many turns in a row the goroutines of one process take among themselves while another process waits.
const turnsMost = 16

// line is where the goroutines of one process stand that want the same exclusive place. One of them is at the head: it
// waits in etcd's queue, or holds. The others cost etcd nothing. The head hands its place on, key and all, or leaves
// and lets the next one enqueue anew. First come, first served. A line with a tally is ready for use.
type line struct {
	mu      sync.Mutex
	busy    bool
	waiting []chan *place
	turns   int           // taken in a row while another process waits
	tally   *atomic.Int64 // of those who wait
	holder  *grip
}

// join waits to be at the head, and returns the place that was handed on, nil where there is none.
func (n *line) join(ctx context.Context) (*place, error) {
	n.mu.Lock()
	if !n.busy {
		n.busy = true
		n.mu.Unlock()
		return nil, nil //nolint:nilnil // at the head, with no place yet
	}
	turn := make(chan *place, 1)
	n.waiting = append(n.waiting, turn)
	n.tally.Add(1)
	defer n.tally.Add(-1)
	n.mu.Unlock()
	select {
	case p := <-turn:
		return p, nil
	case <-ctx.Done():
	}
	n.mu.Lock()
	i := slices.Index(n.waiting, turn)
	if i >= 0 {
		n.waiting = slices.Delete(n.waiting, i, i+1)
	}
	n.mu.Unlock()
	if i < 0 { // too late to leave: it is our turn
		n.give(<-turn)
	}
	return nil, retry.ContextError(ctx)
}

// tryJoin is join that does not wait.
func (n *line) tryJoin() (holder *grip, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy {
		return n.holder, false
	}
	n.busy = true
	return nil, true
}

// head returns the hold at the head of the line, nil if nobody of this process holds.
func (n *line) head() *grip {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.holder
}

// give leaves the head and hands p on, which may be nil; where nobody waits, p is discarded.
func (n *line) give(p *place) {
	n.mu.Lock()
	n.holder = nil
	passed := len(n.waiting) > 0
	if passed {
		n.pass(p)
	} else {
		n.busy, n.turns = false, 0
	}
	n.mu.Unlock()
	if !passed && p != nil {
		p.discard()
	}
}

// keep hands a place that is released on within the process, if somebody waits for it there and it is not another
// process's turn. If it reports false, the caller is still at the head.
func (n *line) keep(p *place) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiting) == 0 || n.turns >= turnsMost {
		return false
	}
	n.holder = nil
	n.pass(p)
	return true
}

// pass makes the next one the head. The lock is held.
func (n *line) pass(p *place) {
	next := n.waiting[0]
	n.waiting = slices.Delete(n.waiting, 0, 1)
	next <- p
}

// took counts a turn.
func (n *line) took(contended bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if contended {
		n.turns++
	} else {
		n.turns = 0
	}
}

// began notes who holds, and whether the place is a new one.
func (n *line) began(g *grip, fresh bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.holder = g
	if fresh {
		n.turns = 0
	}
}
