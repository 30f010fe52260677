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

// seatKey identifies operations of one kind. Two operations with equal keys cannot both be in a
// transaction if they are writes, and share one operation if they are gets.
type seatKey struct {
	key       string
	keysOnly  bool
	countOnly bool
}

// call is one caller's operation, waiting for a transaction or part of one.
type call struct {
	op   clientv3.Op
	id   seatKey
	size int
	over chan struct{} // closed when the fields below are final

	unsent   bool // nothing was or will be applied: the caller sends it itself, or returns
	slot     bool // the caller holds a slot for sending it
	round    int  // the round of the slot
	resp     clientv3.OpResponse
	err      error
	panicked any

	before, after *call   // its neighbors in the queue
	flight        *flight // the transaction that holds it
	seat          int     // the index of its operation there
	guest         bool    // the operation was added for an earlier, equal call
}

// newCall returns a call of op. key is the key of op if op is made of strings. Otherwise key is "",
// and op is copied because the caller may reuse its buffers while the operation is in flight.
func newCall(op clientv3.Op, key string) *call {
	if key == "" {
		op = own(op)
		key = string(op.KeyBytes())
	}
	return &call{
		op:   op,
		id:   seatKey{key: key, keysOnly: op.IsKeysOnly(), countOnly: op.IsCountOnly()},
		size: len(key) + len(op.ValueBytes()) + perOpBytes,
		over: make(chan struct{}),
	}
}

// sendAlone makes the caller send the operation itself.
func (c *call) sendAlone() {
	c.unsent = true
	close(c.over)
}

// queue is a linked list of calls, the oldest first.
type queue struct {
	first, last *call
	n           int
}

// push appends a call.
func (q *queue) push(c *call) {
	c.before = q.last
	if q.last == nil {
		q.first = c
	} else {
		q.last.after = c
	}
	q.last = c
	q.n++
}

// remove removes a call that is in the queue.
func (q *queue) remove(c *call) {
	if c.before == nil {
		q.first = c.after
	} else {
		c.before.after = c.after
	}
	if c.after == nil {
		q.last = c.before
	} else {
		c.after.before = c.before
	}
	c.before, c.after = nil, nil
	q.n--
}

// flight is one transaction shared by several calls.
type flight struct {
	calls []*call
	ops   []clientv3.Op // equal gets share one operation
	round int

	ctx   *wire.Attempt
	end   context.CancelFunc
	began time.Time

	// left, givenUp and landed are guarded by the mutex of the lane.
	left    int // callers that still wait for it
	givenUp bool
	landed  bool

	resp     *clientv3.TxnResponse
	err      error
	panicked any
}

// begin creates the context of the transaction.
func (f *flight) begin(round int) {
	//nolint:forbidigo // a life of its own: no caller's deadline, values or metadata may reach the others' request
	ctx, end := context.WithCancel(context.Background())
	f.ctx, f.end = wire.Track(ctx, false), end
	f.round, f.left, f.began = round, len(f.calls), time.Now()
	f.err = badResponse("txn", "", errWrongResponse) // the error if commit sets no result
}

// leave removes a caller that stops waiting, and reports whether the outcome of the transaction is
// known or will be at once. It cancels the transaction if no caller is left. It also cancels a
// transaction that is overdue and provably was not sent because there is no connection: its calls
// are then known not to be applied, and the other callers can each wait for the connection. The
// lane's mutex must be held.
func (f *flight) leave() bool {
	if f.landed {
		return true
	}
	f.left--
	f.givenUp = f.givenUp || (f.ctx.NotSent() && time.Since(f.began) >= patience)
	if f.givenUp || f.left == 0 {
		f.end()
	}
	return f.givenUp
}

// commit sends the transaction and stores its result.
func (f *flight) commit(next clientv3.KV) {
	defer f.end()
	defer func() { f.panicked = recover() }()
	resp, err := next.Txn(f.ctx).Then(f.ops...).Commit()
	switch {
	case err != nil:
		f.err = err
	case resp != nil && resp.Succeeded && len(resp.Responses) == len(f.ops):
		f.resp, f.err = resp, nil
	}
}

// errGivenUp is the error of a transaction that was sent at the moment it was canceled for lack of
// a connection.
var errGivenUp = fmt.Errorf("%w: the connection came back while the request was given up", errs.Unavailable)

// tooMany reports whether the server refused the transaction for its number of operations.
func (f *flight) tooMany() bool {
	return f.err != nil && retry.Message(f.err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCTooManyOps)
}

// deliver sets the result of every call.
func (f *flight) deliver(writes bool) {
	again := f.panicked == nil && f.err != nil && f.harmless(writes)
	for _, c := range f.calls {
		switch {
		case f.panicked != nil:
			c.panicked = f.panicked
		case again:
			c.unsent = true
		case f.err != nil && f.givenUp:
			c.err = fmt.Errorf("%w: %w", errs.UnknownOutcome, errGivenUp)
		case f.err != nil:
			c.err = f.err
		default:
			f.answer(c, writes)
		}
	}
	// Only now, because equal gets share a response that the first caller may modify.
	for _, c := range f.calls {
		close(c.over)
	}
}

// harmless reports whether each call can be sent separately after its transaction failed. A get can
// always, unless the server is overloaded. A write can if the transaction provably was not applied
// and the write could succeed alone.
func (f *flight) harmless(writes bool) bool {
	class, _ := retry.Classify(f.err, f.ctx.NotSent())
	if !writes {
		return class != retry.Overloaded
	}
	return class == retry.Retryable || class == retry.Permanent
}

// answer sets the result of a call from its part of the response, as if it had been sent alone.
func (f *flight) answer(c *call, writes bool) {
	switch r := f.resp.Responses[c.seat].GetResponse().(type) {
	case *pb.ResponseOp_ResponseRange:
		if one := r.ResponseRange; one != nil && c.op.IsGet() {
			if c.guest {
				one = proto.CloneOf(one)
			}
			one.Header = f.header()
			c.resp = (*clientv3.GetResponse)(one).OpResponse()
			return
		}
	case *pb.ResponseOp_ResponsePut:
		if one := r.ResponsePut; one != nil && c.op.IsPut() {
			one.Header = f.header()
			c.resp = (*clientv3.PutResponse)(one).OpResponse()
			return
		}
	case *pb.ResponseOp_ResponseDeleteRange:
		if one := r.ResponseDeleteRange; one != nil && c.op.IsDelete() {
			one.Header = f.header()
			c.resp = (*clientv3.DeleteResponse)(one).OpResponse()
			return
		}
	}
	c.unsent = !writes
	c.err = badResponse(verb(c.op), c.id.key, errWrongResponse)
}

// header returns a copy of the response header for one call.
func (f *flight) header() *pb.ResponseHeader {
	h := f.resp.Header
	return &pb.ResponseHeader{ClusterId: h.GetClusterId(), MemberId: h.GetMemberId(), Revision: h.GetRevision(), RaftTerm: h.GetRaftTerm()}
}
