package lock

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// The times of requests. Each has one attempt for all of its time; only a failure is followed by another one.
const (
	defaultTimeout = 10 * time.Second // of a call whose context has no deadline
	readTimeout    = time.Minute      // of a read for somebody who waits for as long as it takes
	closeTimeout   = 5 * time.Second  // for what has to be done on the server when something ends, whatever else has ended
	grace          = time.Second      // for requests that are under way when the locker is closed
	minBackoff     = 50 * time.Millisecond
	maxBackoff     = time.Second
)

// txn is a transaction that takes effect at most once, however often it is sent: what it compares does not come true a
// second time.
type txn struct {
	op           string // what it is for, in logs
	cmps         []clientv3.Cmp
	then, orElse []clientv3.Op
}

// txnResult is what etcd said to a transaction. unknown is how many other attempts may have been applied as well, or may
// be later.
type txnResult struct {
	*clientv3.TxnResponse

	unknown int
}

func (r *txnResult) revision() int64 { return r.Header.GetRevision() }

func (r *txnResult) get(i int) *pb.RangeResponse { return r.Responses[i].GetResponseRange() }

func newBackoff(most time.Duration) backoff.BackOff {
	b := retry.Policy{BaseDelay: minBackoff, MaxDelay: most}.Backoff()
	b.Reset()
	return b
}

// read reads, at one revision. A slow read is made a second time, at another member.
func (l *Locker) read(ctx context.Context, op string, gets ...clientv3.Op) (txnResult, error) {
	if _, ok := ctx.Deadline(); !ok {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, readTimeout)
		defer stop()
	}
	return l.settle(ctx, retry.Call{Pkg: "lock", Op: op, Read: true, Persistent: true}, txn{then: gets})
}

// commit sends a transaction that changes or deletes a key of ours, until etcd has said yes or no, or ctx ends. Any answer is
// final: a no says that the key is gone or was changed, and it does not come back. A slow attempt is followed by a second one,
// at another member.
func (l *Locker) commit(ctx context.Context, t txn) (txnResult, error) {
	return l.settle(ctx, retry.Call{Pkg: "lock", Op: t.op, Guarded: true, Persistent: true}, t)
}

func (l *Locker) settle(ctx context.Context, call retry.Call, t txn) (txnResult, error) {
	op := clientv3.OpTxn(t.cmps, t.then, t.orElse)
	out, err := retry.Settle(ctx, l.sender.Engine, call,
		func(ctx context.Context, _ bool) (txnResult, error) {
			resp, err := l.sender.KV.Do(ctx, op)
			return txnResult{TxnResponse: resp.Txn()}, err
		},
		func(_ context.Context, answer *txnResult, others retry.Others) bool {
			if others != retry.None {
				answer.unknown = 1
			}
			return true
		})
	return out, reason(err)
}

// commitCreation is commit for a transaction that creates a key. There is never more than one attempt under way: a slow one
// keeps all of the time, since a second one could create the key again after it was deleted. An attempt whose answer was lost may
// do so too, and is counted as unknown.
func (l *Locker) commitCreation(ctx context.Context, t txn) (out txnResult, err error) {
	call := retry.Call{Pkg: "lock", Op: t.op, Guarded: true, Persistent: true}
	op := clientv3.OpTxn(t.cmps, t.then, t.orElse)
	err = l.sender.Do(ctx, call, func(ctx context.Context, again bool) error {
		if again {
			out.unknown++ // this one follows one that may have been applied
		}
		resp, err := l.sender.KV.Do(ctx, op)
		out.TxnResponse = resp.Txn()
		return err
	})
	if errors.Is(err, errs.UnknownOutcome) {
		out.unknown++
	}
	return out, reason(err)
}

// withDefaultTimeout bounds a call whose ctx has no deadline.
func withDefaultTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, defaultTimeout, errDefaultTimeout)
}

// errDefaultTimeout is why a request of a context without a deadline was given up.
var errDefaultTimeout = fmt.Errorf("%w: default timeout %v", errs.Unavailable, defaultTimeout)

// detached makes a request that creates a key on a context that does not end with ctx, so that its outcome becomes
// known, but returns when ctx ends. Where it fails, or ctx has ended first, undo is called, in the end.
func (l *Locker) detached(ctx context.Context, request func(context.Context) error, undo func()) error {
	own := context.WithoutCancel(ctx)
	var stop context.CancelFunc
	if deadline, ok := ctx.Deadline(); ok {
		own, stop = context.WithDeadline(own, deadline.Add(closeTimeout))
	} else {
		own, stop = withDefaultTimeout(own)
	}
	defer context.AfterFunc(ctx, func() { time.AfterFunc(closeTimeout, stop) })()
	unlink := context.AfterFunc(l.life, func() { time.AfterFunc(grace, stop) })
	done := make(chan error, 1)
	l.callers.Go(func() { // one is under way already, so this is before any end of the wait in Close
		defer stop()
		defer unlink()
		err := request(own)
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
	l.callers.Go(func() {
		if <-done == nil {
			undo()
		}
	})
	return retry.ContextError(ctx)
}

// sleep waits, and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// hex is a lease as etcdctl prints it.
func hex(id clientv3.LeaseID) string { return strconv.FormatInt(int64(id), 16) }
