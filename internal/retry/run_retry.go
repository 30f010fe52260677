package retry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// shouldRetry reports whether to make another attempt after one that failed with err, of the given
// class. It withdraws from the budget.
func (r *run[T]) shouldRetry(class Class, err error) bool {
	switch class {
	case Permanent, AmbiguousPermanent:
		return false
	case NoLeader:
		return true // until the deadline, because elections end
	case Overloaded:
		return r.ambiguous && r.call.AtMostOnce || r.call.Persistent || r.budget.Withdraw()
	case InvalidToken:
		retry := !r.tokenRetried
		r.tokenRetried = true
		return retry
	case Retryable, Ambiguous:
	}
	if r.ambiguous {
		return r.call.AtMostOnce // until the outcome is known
	}
	if r.call.Persistent {
		return true
	}
	if r.attempts >= r.Policy.MaxAttempts {
		return false
	}
	if !r.connectionRetried && isConnectionLost(err) {
		r.connectionRetried = true
		return true // outside the budget, because it does not mean that the cluster is in trouble
	}
	return r.budget.Withdraw()
}

// maxElectionDelay is the maximum delay while there is no leader or an outcome is unknown. A
// cluster that repeatedly loses its leader works only for short periods.
const maxElectionDelay = 500 * time.Millisecond

// pause waits before the next attempt. It returns false if the call has ended meanwhile.
func (r *run[T]) pause(class Class) bool {
	if class == InvalidToken {
		return true // client/v3 has the new token
	}
	delay := r.nextDelay(class)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	var closing <-chan struct{}
	if clientCtx := r.clientCtx(); clientCtx != nil {
		closing = clientCtx.Done()
	}
	select {
	case <-timer.C:
		return true
	case <-r.ctx.Done():
		return false
	case <-closing:
		return false
	}
}

// nextDelay returns the delay before the next attempt.
func (r *run[T]) nextDelay(class Class) time.Duration {
	if class == NoLeader || class == Overloaded {
		r.attempts-- // such an attempt does not count
	}
	if r.backoff == nil {
		r.backoff = r.Policy.Backoff()
		r.backoff.Reset()
	}
	delay := r.backoff.NextBackOff()
	if class == NoLeader || r.ambiguous {
		delay = min(delay, maxElectionDelay)
	}
	return delay
}

// opError returns the error of the call whose last attempt returned x.
func (r *run[T]) opError(x result[T]) error {
	if r.ambiguous {
		r.unknown.Add(1)
	}
	if r.call.Raw {
		return x.err
	}
	out := &errs.Error{Pkg: r.call.Pkg, Op: r.call.Op, Key: r.call.Dir + r.call.Key, NotApplied: !r.ambiguous}
	switch {
	case r.isClosed():
		out.Err = WithCondition(x.err, errClientClosed)
	case !x.final && r.ctx.Err() != nil: // a hedge that settles the call also cancels the context
		out.Err = r.timeoutError(x)
	default:
		out.Err = WithCondition(x.err, x.condition)
	}
	if r.ambiguous {
		out.Err = fmt.Errorf("%w: %w", errs.UnknownOutcome, out.Err)
	}
	return out
}

// timeoutError returns the error of a call whose context has ended. If that was a timeout, the
// error says why the cluster did not respond.
func (r *run[T]) timeoutError(x result[T]) error {
	out := ContextError(r.ctx)
	if !errors.Is(out, context.DeadlineExceeded) {
		return out
	}
	if r.defaultTimeout > 0 {
		out = fmt.Errorf("%w (default timeout %v)", out, r.defaultTimeout)
	}
	out = fmt.Errorf("%w: %w", errs.Unavailable, out)
	silentMember := x.peer // the last member to which a request was sent
	if !errors.Is(x.err, context.DeadlineExceeded) && !errors.Is(x.err, context.Canceled) {
		out, silentMember = fmt.Errorf("%w: %w", out, x.err), ""
	}
	if r.Client == nil {
		return out
	}
	return fmt.Errorf("%w: %w", out, wire.ExplainTimeout(r.Client, silentMember))
}
