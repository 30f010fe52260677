package kv

import (
	"context"
	"errors"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

const (
	// Calls that are sent separately. So few gain nothing from sharing.
	maxDirectCalls   = 4
	maxSharedOps     = defaultTxnOps          // operations per transaction, until refused
	maxSharedBytes   = 512 << 10              // bytes per transaction: a third of the default limit
	maxSharedOpBytes = 64 << 10               // a larger operation is sent separately
	sharedOpOverhead = 64                     // upper bound for the size without key and value
	maxBatchWait     = 100 * time.Millisecond // how long waiting calls wait for requests in flight
)

// batcher batches the calls of one kind. It runs no goroutine while no call is in flight.
type batcher struct {
	next    clientv3.KV
	writes  bool
	maxWait time.Duration

	mu         sync.Mutex
	waiting    callQueue
	direct     int           // direct calls of this epoch in flight
	inFlight   bool          // whether a transaction of this epoch is in flight
	epoch      int           // requests of earlier epochs hang, and are no longer waited for
	maxOps     int           // maximum number of operations in a transaction
	opIndexes  map[opKey]int // of the transaction being filled, otherwise empty
	flushTimer *time.Timer   // runs while calls wait
}

func newBatcher(next clientv3.KV, kind int) *batcher {
	return &batcher{next: next, writes: kind >= puts, maxWait: maxBatchWait, maxOps: maxSharedOps, opIndexes: map[opKey]int{}}
}

// do sends one operation.
func (b *batcher) do(ctx context.Context, op clientv3.Op, key string) (clientv3.OpResponse, error) {
	if epoch, ok := b.tryDirect(nil); ok {
		return b.sendDirect(ctx, op, epoch)
	}
	c := newCall(op, key)
	if epoch, ok := b.tryDirect(c); ok {
		return b.sendDirect(ctx, op, epoch)
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		if !b.leave(c) {
			return clientv3.OpResponse{}, retry.ContextError(ctx)
		}
		<-c.done
	}
	switch {
	case c.panicked != nil:
		panic(c.panicked)
	case !c.unsent && errors.Is(c.err, errCanceledUnsent) && ctx.Err() != nil:
		return clientv3.OpResponse{}, retry.ContextError(ctx)
	case !c.unsent:
		return c.resp, c.err
	case ctx.Err() != nil:
		if c.direct {
			b.finishDirect(c.epoch)
		}
		return clientv3.OpResponse{}, b.notSentError(ctx, op)
	case c.direct:
		return b.sendDirect(ctx, op, c.epoch)
	}
	return b.next.Do(ctx, op)
}

// tryDirect counts a direct call if one is allowed and no call waits. Otherwise it queues c, unless
// c is nil.
func (b *batcher) tryDirect(c *call) (epoch int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.direct < maxDirectCalls && !b.inFlight && b.waiting.n == 0 {
		b.direct++
		return b.epoch, true
	}
	if c != nil {
		b.waiting.push(c)
		if b.waiting.n == 1 {
			b.resetFlushTimer()
		}
	}
	return 0, false
}

// sendDirect sends one operation unchanged. The direct call must be counted, and ends even if next
// panics.
func (b *batcher) sendDirect(ctx context.Context, op clientv3.Op, epoch int) (clientv3.OpResponse, error) {
	defer b.finishDirect(epoch)
	return b.next.Do(ctx, op)
}

// finishDirect ends a direct call of an epoch.
func (b *batcher) finishDirect(epoch int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if epoch == b.epoch {
		b.direct--
	}
	b.sendWaiting()
}

// notSentError returns the error of a call whose context ended before anything was sent that could
// have been applied.
func (b *batcher) notSentError(ctx context.Context, op clientv3.Op) error {
	err := retry.ContextError(ctx)
	if b.writes {
		return opError(verb(op), string(op.KeyBytes()), err)
	}
	return err
}

// leave handles a call whose context has ended. It reports whether the outcome of the call is known
// or will be at once.
func (b *batcher) leave(c *call) (known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-c.done:
		return true
	default:
	}
	if c.batch != nil {
		return c.batch.removeWaiter()
	}
	b.waiting.remove(c)
	c.returnUnsent()
	if b.waiting.n == 0 {
		b.resetFlushTimer()
	}
	return true
}

// sendWaiting sends waiting calls unless a transaction is in flight. b.mu must be held.
func (b *batcher) sendWaiting() {
	switch {
	case b.waiting.n == 0 || b.inFlight:
		return
	case b.waiting.n+b.direct > maxDirectCalls:
		b.sendShared()
	default:
		for b.waiting.n > 0 {
			c := b.waiting.first
			b.waiting.remove(c)
			b.allowDirect(c)
		}
	}
	b.resetFlushTimer()
}

// allowDirect makes the caller of c send it as a direct call. b.mu must be held.
func (b *batcher) allowDirect(c *call) {
	b.direct++
	c.direct, c.epoch = true, b.epoch
	c.returnUnsent()
}

// sendShared sends as many waiting calls as fit into one transaction, the oldest first. b.mu must
// be held.
func (b *batcher) sendShared() {
	p := b.nextBatch()
	if len(p.calls) == 1 {
		p.calls[0].batch = nil
		b.allowDirect(p.calls[0])
		return
	}
	b.inFlight = true
	p.start(b.epoch)
	go b.send(p)
}

// nextBatch moves waiting calls to a new transaction. b.mu must be held.
func (b *batcher) nextBatch() *pendingBatch {
	n := min(b.waiting.n, b.maxOps)
	p := &pendingBatch{calls: make([]*call, 0, n), ops: make([]clientv3.Op, 0, n)}
	room := maxSharedBytes
	next := b.waiting.first
	for c := next; c != nil && len(p.ops) < b.maxOps; c = next {
		next = c.next // remove clears c.next
		opIndex, duplicate := b.opIndexes[c.id]
		if duplicate && b.writes {
			continue // a transaction can write a key only once
		}
		if !duplicate {
			if room -= c.size; room < 0 {
				break
			}
			opIndex = len(p.ops)
			b.opIndexes[c.id] = opIndex
			p.ops = append(p.ops, c.op)
		}
		b.waiting.remove(c)
		c.batch, c.opIndex, c.deduplicated = p, opIndex, duplicate
		p.calls = append(p.calls, c)
	}
	clear(b.opIndexes)
	return p
}

// send sends one transaction. It runs on a goroutine of its own.
func (b *batcher) send(p *pendingBatch) {
	defer b.complete(p) // even if next panics
	p.commit(b.next)
}

// complete delivers the results of a transaction, after starting the next one.
func (b *batcher) complete(p *pendingBatch) {
	b.mu.Lock()
	p.completed = true
	if p.epoch == b.epoch {
		b.inFlight = false
	}
	if p.hasTooManyOps() {
		b.maxOps = max(2, min(b.maxOps, len(p.ops)/2))
	}
	b.sendWaiting()
	b.mu.Unlock()
	p.deliver(b.writes)
}

// resetFlushTimer starts, resets or stops the timer that calls flush. b.mu must be held.
func (b *batcher) resetFlushTimer() {
	switch {
	case b.waiting.n > 0 && b.flushTimer == nil:
		b.flushTimer = time.AfterFunc(b.maxWait, b.flush)
	case b.waiting.n > 0:
		b.flushTimer.Reset(b.maxWait)
	case b.flushTimer != nil:
		b.flushTimer.Stop()
	}
}

// flush starts a new epoch: it sends the calls that have waited too long, without waiting any
// longer for the requests in flight.
func (b *batcher) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.epoch++
	b.direct, b.inFlight = 0, false
	b.sendWaiting()
}
