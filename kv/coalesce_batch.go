package kv

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// opKey identifies operations of one kind. Two operations with equal keys cannot both be in a
// transaction if they are writes, and share one operation if they are gets.
type opKey struct {
	key       string
	keysOnly  bool
	countOnly bool
}

// call is one caller's operation, waiting for a transaction or part of one.
type call struct {
	op   clientv3.Op
	id   opKey
	size int
	done chan struct{} // closed when the fields below are final

	unsent   bool // nothing was or will be applied: the caller sends it itself, or returns
	direct   bool // the caller sends it as a direct call, which is already counted
	epoch    int  // the epoch of the direct call
	resp     clientv3.OpResponse
	err      error
	panicked any

	prev, next   *call         // its neighbors in the queue
	batch        *pendingBatch // the transaction that holds it
	opIndex      int           // the index of its operation there
	deduplicated bool          // the operation was added for an earlier, equal call
}

// newCall returns a call of op. key is the key of op if op is made of strings. Otherwise key is "",
// and op is copied because the caller may reuse its buffers while the operation is in flight.
func newCall(op clientv3.Op, key string) *call {
	if key == "" {
		op = cloneOp(op)
		key = string(op.KeyBytes())
	}
	return &call{
		op:   op,
		id:   opKey{key: key, keysOnly: op.IsKeysOnly(), countOnly: op.IsCountOnly()},
		size: len(key) + len(op.ValueBytes()) + sharedOpOverhead,
		done: make(chan struct{}),
	}
}

// returnUnsent makes the caller send the operation itself.
func (c *call) returnUnsent() {
	c.unsent = true
	close(c.done)
}

// callQueue is a linked list of calls, the oldest first.
type callQueue struct {
	first, last *call
	n           int
}

// push appends a call.
func (q *callQueue) push(c *call) {
	c.prev = q.last
	if q.last == nil {
		q.first = c
	} else {
		q.last.next = c
	}
	q.last = c
	q.n++
}

// remove removes a call that is in the queue.
func (q *callQueue) remove(c *call) {
	if c.prev == nil {
		q.first = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		q.last = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
	q.n--
}

// pendingBatch is one transaction shared by several calls.
type pendingBatch struct {
	calls []*call
	ops   []clientv3.Op // equal gets share one operation
	epoch int

	ctx       *wire.Attempt
	cancel    context.CancelFunc
	startedAt time.Time

	// waiters, canceled and completed are guarded by the mutex of the batcher.
	waiters   int // callers that still wait for it
	canceled  bool
	completed bool

	resp     *clientv3.TxnResponse
	err      error
	panicked any
}

// start creates the context of the transaction.
func (p *pendingBatch) start(epoch int) {
	// The deadline, values and metadata of one caller must not affect the requests of the others.
	ctx, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // see above
	p.ctx, p.cancel = wire.Track(ctx, false), cancel
	p.epoch, p.waiters, p.startedAt = epoch, len(p.calls), time.Now()
	p.err = badResponse("txn", "", errWrongResponse) // the error if commit sets no result
}

// removeWaiter removes a caller that stops waiting, and reports whether the outcome of the
// transaction is known or will be at once. It cancels the transaction if no caller is left. It also
// cancels a transaction that is overdue and provably was not sent because there is no connection:
// its calls are then known not to be applied, and the other callers can each wait for the
// connection. The batcher's mutex must be held.
func (p *pendingBatch) removeWaiter() bool {
	if p.completed {
		return true
	}
	p.waiters--
	p.canceled = p.canceled || (p.ctx.NotSent() && time.Since(p.startedAt) >= maxBatchWait)
	if p.canceled || p.waiters == 0 {
		p.cancel()
	}
	return p.canceled
}

// commit sends the transaction and stores its result.
func (p *pendingBatch) commit(next clientv3.KV) {
	defer p.cancel()
	defer func() { p.panicked = recover() }()
	resp, err := next.Txn(p.ctx).Then(p.ops...).Commit()
	switch {
	case err != nil:
		p.err = err
	case resp != nil && resp.Succeeded && len(resp.Responses) == len(p.ops):
		p.resp, p.err = resp, nil
	}
}

// errCanceledUnsent is the error of a transaction that was sent at the moment it was canceled for
// lack of a connection.
var errCanceledUnsent = fmt.Errorf("%w: the connection was restored while the request was canceled", errs.Unavailable)

// hasTooManyOps reports whether the server refused the transaction because of its number of
// operations.
func (p *pendingBatch) hasTooManyOps() bool {
	return p.err != nil && retry.Message(p.err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCTooManyOps)
}

// deliver sets the result of every call.
func (p *pendingBatch) deliver(writes bool) {
	separately := p.panicked == nil && p.err != nil && p.canSendSeparately(writes)
	for _, c := range p.calls {
		switch {
		case p.panicked != nil:
			c.panicked = p.panicked
		case separately:
			c.unsent = true
		case p.err != nil && p.canceled:
			c.err = fmt.Errorf("%w: %w", errs.UnknownOutcome, errCanceledUnsent)
		case p.err != nil:
			c.err = p.err
		default:
			p.setResult(c, writes)
		}
	}
	// Only now, because equal gets share a response that the first caller may modify.
	for _, c := range p.calls {
		close(c.done)
	}
}

// canSendSeparately reports whether each call can be sent separately after its transaction failed.
// A get can always, unless the server is overloaded. A write can if the transaction provably was
// not applied and the write could succeed alone.
func (p *pendingBatch) canSendSeparately(writes bool) bool {
	class, _ := retry.Classify(p.err, p.ctx.NotSent())
	if !writes {
		return class != retry.Overloaded
	}
	return class == retry.Retryable || class == retry.Permanent
}

// setResult sets the result of a call from its part of the response, as if it had been sent alone.
func (p *pendingBatch) setResult(c *call, writes bool) {
	switch r := p.resp.Responses[c.opIndex].GetResponse().(type) {
	case *pb.ResponseOp_ResponseRange:
		if part := r.ResponseRange; part != nil && c.op.IsGet() {
			if c.deduplicated {
				part = proto.CloneOf(part)
			}
			part.Header = p.header()
			c.resp = (*clientv3.GetResponse)(part).OpResponse()
			return
		}
	case *pb.ResponseOp_ResponsePut:
		if part := r.ResponsePut; part != nil && c.op.IsPut() {
			part.Header = p.header()
			c.resp = (*clientv3.PutResponse)(part).OpResponse()
			return
		}
	case *pb.ResponseOp_ResponseDeleteRange:
		if part := r.ResponseDeleteRange; part != nil && c.op.IsDelete() {
			part.Header = p.header()
			c.resp = (*clientv3.DeleteResponse)(part).OpResponse()
			return
		}
	}
	c.unsent = !writes
	c.err = badResponse(verb(c.op), c.id.key, errWrongResponse)
}

// header returns a copy of the response header for one call.
func (p *pendingBatch) header() *pb.ResponseHeader {
	h := p.resp.Header
	return &pb.ResponseHeader{ClusterId: h.GetClusterId(), MemberId: h.GetMemberId(), Revision: h.GetRevision(), RaftTerm: h.GetRaftTerm()}
}
