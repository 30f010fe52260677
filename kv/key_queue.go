package kv

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// keyQueues queues the updates of each key by stores derived from one another, so that they do not
// conflict on the server. Each update passes the state of the key to the next. The zero value is
// ready for use.
type keyQueues struct {
	conflicts atomic.Uint64 // with other processes

	mu     sync.Mutex
	queues map[string]*keyQueue
}

// updatesPerRead is the number of updates after which the key is read again. Without the delay of
// this read, other processes would always lose against the updates of this one.
const updatesPerRead = 32

// keyQueue is the queue of one key. It exists while a caller owns it or waits for it.
type keyQueue struct {
	refs  int           // owner and waiting callers
	owned chan struct{} // full while the queue has an owner

	// known and cur hold the state of the key that the previous owner passed on.
	updates int // number of updates so far
	known   bool
	cur     *mvccpb.KeyValue // nil: does not exist
}

// acquire waits until the caller owns the queue of key, or until ctx ends.
func (k *keyQueues) acquire(ctx context.Context, key string) (*keyQueue, error) {
	q := k.join(key)
	select {
	case q.owned <- struct{}{}:
		return q, nil
	case <-ctx.Done():
		k.leave(key, q)
		return nil, ctx.Err()
	}
}

// tryAcquire is like acquire, but returns nil if the queue has an owner.
func (k *keyQueues) tryAcquire(key string) *keyQueue {
	q := k.join(key)
	select {
	case q.owned <- struct{}{}:
		return q
	default:
		k.leave(key, q)
		return nil
	}
}

// release ends the ownership and stores the state of the key, if known, for the next owner.
func (k *keyQueues) release(key string, q *keyQueue, known bool, cur *mvccpb.KeyValue) {
	q.updates++
	q.known, q.cur = known && q.updates%updatesPerRead != 0, cur
	<-q.owned
	k.leave(key, q)
}

// join returns the queue of a key, which the caller must leave.
func (k *keyQueues) join(key string) *keyQueue {
	k.mu.Lock()
	defer k.mu.Unlock()
	q := k.queues[key]
	if q == nil {
		if k.queues == nil {
			k.queues = make(map[string]*keyQueue)
		}
		q = &keyQueue{owned: make(chan struct{}, 1)}
		k.queues[key] = q
	}
	q.refs++
	return q
}

// leave removes the queue of a key, and its state, after its last user.
func (k *keyQueues) leave(key string, q *keyQueue) {
	k.mu.Lock()
	defer k.mu.Unlock()
	q.refs--
	if q.refs == 0 {
		delete(k.queues, key)
	}
}

// queueTimeout bounds how long a transaction waits for other transactions of this process. Queuing
// only avoids conflicts: after a timeout the transaction continues without.
const queueTimeout = 500 * time.Millisecond

// heldQueues holds the queues of the keys that a transaction reads and writes.
type heldQueues struct {
	queues   *keyQueues
	held     map[string]*keyQueue
	disabled bool // a wait timed out
}

// acquire acquires the queues of keys, which are sorted, and first releases those held. It reports
// whether it had to wait, in which case others may have written the keys meanwhile.
func (h *heldQueues) acquire(ctx context.Context, keys []string) (waited bool) {
	if h.disabled || h.holdsAll(keys) {
		return false
	}
	h.release()
	h.held = make(map[string]*keyQueue, len(keys))
	deadline := time.Now().Add(queueTimeout)
	for _, key := range keys {
		q := h.queues.tryAcquire(key)
		if q == nil {
			waited = true
			if q = h.await(ctx, key, deadline); q == nil {
				h.disabled = true
				h.release()
				return true
			}
		}
		h.held[key] = q
	}
	return waited
}

// await waits for the queue of a key. It returns nil at the deadline.
func (h *heldQueues) await(ctx context.Context, key string, deadline time.Time) *keyQueue {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	q, err := h.queues.acquire(ctx, key)
	if err != nil {
		return nil
	}
	return q
}

func (h *heldQueues) holdsAll(keys []string) bool {
	for _, key := range keys {
		if h.held[key] == nil {
			return false
		}
	}
	return true
}

// release releases the queues. It passes no state of the keys on.
func (h *heldQueues) release() {
	for key, q := range h.held {
		h.queues.release(key, q, false, nil)
	}
	h.held = nil
}
