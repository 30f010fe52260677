package lock

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// The timeouts of requests and the delays between their attempts.
const (
	callTimeout     = 10 * time.Second // of a call whose context has no deadline
	readTimeout     = time.Minute      // of a read whose context has no deadline
	closeTimeout    = 5 * time.Second  // of the removal of keys, also when all else has ended
	inFlightTimeout = time.Second      // for requests in progress when the locker is closed
	minBackoff      = 50 * time.Millisecond
	maxBackoff      = time.Second
)

// txn is a transaction that takes effect at most once, however often it is sent, because its
// comparisons do not become true a second time.
type txn struct {
	op           string // its purpose, for logs
	cmps         []clientv3.Cmp
	then, orElse []clientv3.Op
}

// txnResult is the response to a transaction. unresolved is the number of other attempts that may
// have been applied as well, or may yet be.
type txnResult struct {
	*clientv3.TxnResponse

	unresolved int
}

func (r *txnResult) revision() int64 { return r.Header.GetRevision() }

func (r *txnResult) rangeResponse(i int) *pb.RangeResponse { return r.Responses[i].GetResponseRange() }

func newBackoff(maxDelay time.Duration) backoff.BackOff {
	b := retry.Policy{BaseDelay: minBackoff, MaxDelay: maxDelay}.Backoff()
	b.Reset()
	return b
}

// read reads at one revision. A slow read is repeated at another member.
func (l *Locker) read(ctx context.Context, op string, gets ...clientv3.Op) (txnResult, error) {
	if _, ok := ctx.Deadline(); !ok {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, readTimeout)
		defer stop()
	}
	return l.sendHedged(ctx, retry.Call{Pkg: "lock", Op: op, Read: true, Persistent: true}, txn{then: gets})
}

// commit sends a transaction that changes or deletes a key of this package, until etcd has answered
// or ctx ends. Each answer is final. A failed comparison shows that the key is gone or has changed,
// and that is not undone. A slow attempt is repeated at another member.
func (l *Locker) commit(ctx context.Context, t txn) (txnResult, error) {
	return l.sendHedged(ctx, retry.Call{Pkg: "lock", Op: t.op, AtMostOnce: true, Persistent: true}, t)
}

func (l *Locker) sendHedged(ctx context.Context, call retry.Call, t txn) (txnResult, error) {
	op := clientv3.OpTxn(t.cmps, t.then, t.orElse)
	out, err := retry.DoUntil(ctx, l.sender.Engine, call,
		func(ctx context.Context, _ bool) (txnResult, error) {
			resp, err := l.sender.KV.Do(ctx, op)
			return txnResult{TxnResponse: resp.Txn()}, err
		},
		func(_ context.Context, resp *txnResult, others retry.Others) bool {
			if others != retry.OthersNotApplied {
				resp.unresolved = 1
			}
			return true
		})
	return out, errs.Cause(err)
}

// commitCreation is like commit, for a transaction that creates a key. It makes one attempt at a
// time, which may take all of the time that is left, because a second one in parallel could create
// the key again after its deletion. An attempt whose answer was lost could do that as well: the
// result has the number of these attempts in unresolved.
func (l *Locker) commitCreation(ctx context.Context, t txn) (out txnResult, err error) {
	call := retry.Call{Pkg: "lock", Op: t.op, AtMostOnce: true, Persistent: true}
	op := clientv3.OpTxn(t.cmps, t.then, t.orElse)
	err = l.sender.Do(ctx, call, func(ctx context.Context, repeated bool) error {
		if repeated {
			out.unresolved++ // an earlier attempt may have been applied
		}
		resp, err := l.sender.KV.Do(ctx, op)
		out.TxnResponse = resp.Txn()
		return err
	})
	if errors.Is(err, errs.UnknownOutcome) {
		out.unresolved++
	}
	return out, errs.Cause(err)
}

// withCallTimeout adds callTimeout to a context without a deadline.
func withCallTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, callTimeout, errCallTimeout)
}

// errCallTimeout is the cause of the end of such a context.
var errCallTimeout = fmt.Errorf("%w: default timeout %v", errs.Unavailable, callTimeout)

// sendDetached makes a request that creates a key. The context of the request does not end with
// ctx, so that its outcome becomes known, but sendDetached returns when ctx ends. If the request
// fails, or ctx ends first, undo is called once the request has ended.
func (l *Locker) sendDetached(ctx context.Context, request func(context.Context) error, undo func()) error {
	requestCtx := context.WithoutCancel(ctx)
	var stop context.CancelFunc
	if deadline, ok := ctx.Deadline(); ok {
		requestCtx, stop = context.WithDeadline(requestCtx, deadline.Add(closeTimeout))
	} else {
		requestCtx, stop = withCallTimeout(requestCtx)
	}
	defer context.AfterFunc(ctx, func() { time.AfterFunc(closeTimeout, stop) })()
	detach := context.AfterFunc(l.ctx, func() { time.AfterFunc(inFlightTimeout, stop) })
	done := make(chan error, 1)
	l.calls.Go(func() { // the caller's call is in progress, so Close still waits
		defer stop()
		defer detach()
		err := request(requestCtx)
		if err != nil {
			undo()
		}
		done <- err
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	l.calls.Go(func() {
		if <-done == nil {
			undo()
		}
	})
	return retry.ContextError(ctx)
}
