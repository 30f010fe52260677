package lock

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// The times of requests.
const (
	minAttemptTimeout = 2 * time.Second  // of a request that can be sent again; each one has twice that of the one before
	maxAttemptTimeout = 64 * time.Second // but no more than this
	defaultTimeout    = 10 * time.Second // if the context has no deadline
	closeTimeout      = 5 * time.Second  // for what has to be done on the server when something ends, whatever else has ended
	grace             = time.Second      // for requests that are under way when the locker is closed
	minBackoff        = 50 * time.Millisecond
	maxBackoff        = time.Second
)

// txn is a transaction that takes effect at most once, however often it is sent: what it compares does not come true a
// second time.
type txn struct {
	cmps         []clientv3.Cmp
	then, orElse []clientv3.Op
}

// txnResult is what etcd said to a transaction. unknown is how many earlier attempts may have been applied as well, or may be
// later.
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

// commitDefinite sends a transaction until etcd has said yes or no, or ctx ends; without a deadline that is 10 s. One attempt is
// bounded, so that a member that is frozen does not use up the time of the call. If the error comes with unknown attempts, these may
// have been applied, or may be.
func (l *Locker) commitDefinite(ctx context.Context, t txn) (out txnResult, err error) {
	ctx, stop := withDefaultTimeout(ctx)
	defer stop()
	var pauses backoff.BackOff
	for timeout := minAttemptTimeout; ; timeout = min(2*timeout, maxAttemptTimeout) {
		var late bool
		out.TxnResponse, late, err = l.attempt(ctx, t, timeout)
		if err == nil {
			return out, nil
		}
		unknown := errors.Is(err, errs.UnknownOutcome)
		if unknown {
			out.unknown++
		}
		if pauses == nil {
			pauses = newBackoff(maxBackoff)
		}
		full := errors.Is(err, rpctypes.ErrNoSpace) // and stays so for longer than anybody waits
		again := !full && (unknown || late || errors.Is(err, errs.Unavailable))
		if !again || !sleep(ctx, pauses.NextBackOff()) {
			return out, wrapDeadline(ctx, err)
		}
	}
}

// wrapDeadline is the error of a request, and says so where it was given up since ctx had ended.
func wrapDeadline(ctx context.Context, err error) error {
	err = reason(err)
	if over := retry.ContextError(ctx); over != nil && !errors.Is(err, ctx.Err()) {
		return fmt.Errorf("%w: %w", over, err)
	}
	return err
}

// withDefaultTimeout bounds a request whose ctx has no deadline.
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

// attempt sends a transaction once, or as often as it is known not to have been applied. late says that it was the
// attempt that ran out of time.
func (l *Locker) attempt(ctx context.Context, t txn, timeout time.Duration) (resp *clientv3.TxnResponse, late bool, err error) {
	ctx, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	resp, err = l.store.Txn(ctx).If(t.cmps...).Then(t.then...).Else(t.orElse...).Commit()
	return resp, ctx.Err() != nil, err
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
