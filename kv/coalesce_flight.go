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

// seatKey tells operations of one kind apart: two that are equal in it cannot be in one transaction, or need not be.
type seatKey struct {
	key       string
	keysOnly  bool
	countOnly bool
}

// call is one caller's operation that waits for its transaction, or is part of one.
type call struct {
	op   clientv3.Op
	id   seatKey
	size int
	over chan struct{} // closed when what follows is known

	unsent   bool // nothing of it was applied, nor will be: its caller sends it, or gives it up
	slot     bool // its caller has a slot for that
	round    int  // of the slot
	resp     clientv3.OpResponse
	err      error
	panicked any

	before, after *call   // in the queue
	flight        *flight // the transaction that it left with
	seat          int     // its place there
	guest         bool    // somebody else had the place before
}

// newCall makes a call of op. key is that of op if op is made of strings, else "": then its bytes are the caller's, who
// may use them again while a transaction that holds them is under way.
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

// sendAlone tells the caller to send the call.
func (c *call) sendAlone() {
	c.unsent = true
	close(c.over)
}

// queue is a list of calls, the oldest first.
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

// remove takes out a call that is in the queue.
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

// flight is one transaction that calls share.
type flight struct {
	calls []*call
	ops   []clientv3.Op // several calls may get theirs from one get
	round int

	ctx   *wire.Attempt
	end   context.CancelFunc
	began time.Time

	// Guarded by the lane.
	left    int // callers that wait for it
	givenUp bool
	landed  bool

	resp     *clientv3.TxnResponse
	err      error
	panicked any
}

// begin makes the context of the transaction.
func (f *flight) begin(round int) {
	//nolint:forbidigo // a life of its own: no caller's deadline, values or metadata may reach the others' request
	ctx, end := context.WithCancel(context.Background())
	f.ctx, f.end = wire.Track(ctx, false), end
	f.round, f.left, f.began = round, len(f.calls), time.Now()
	f.err = badResponse("txn", "", errWrongResponse) // until there is one
}

// leave is for a caller that does not wait any longer; with the last one the transaction is given up. So is one that was
// due long ago and provably has not left the process, because there is no connection: then its calls are known not to be
// applied, and those of the others can wait for the connection by themselves. It reports whether that, or the answer, will
// be there at once. The lane's mutex is held.
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

// commit sends the transaction.
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

// errGivenUp is a transaction that was sent at the very moment at which it was given up for want of a connection.
var errGivenUp = fmt.Errorf("%w: the connection came back while the request was given up", errs.Unavailable)

// tooMany reports whether the server takes fewer operations in a transaction.
func (f *flight) tooMany() bool {
	return f.err != nil && retry.Message(f.err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCTooManyOps)
}

// deliver tells every call what came of it.
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
	for _, c := range f.calls { // now that nobody reads any more what its first owner may change
		close(c.over)
	}
}

// harmless reports whether each call can be sent by itself after its transaction has failed: a get always, unless the server
// asks to be spared; a write if the transaction was provably not applied, and alone it could fare better.
func (f *flight) harmless(writes bool) bool {
	class, _ := retry.Classify(f.err, f.ctx.NotSent())
	if !writes {
		return class != retry.Busy
	}
	return class == retry.Refused || class == retry.Hopeless
}

// answer gives a call its part of the answer, as if it had been made alone.
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

// header is a header of the transaction for one call.
func (f *flight) header() *pb.ResponseHeader {
	h := f.resp.Header
	return &pb.ResponseHeader{ClusterId: h.GetClusterId(), MemberId: h.GetMemberId(), Revision: h.GetRevision(), RaftTerm: h.GetRaftTerm()}
}
