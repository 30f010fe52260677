package retry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// run is one call in progress.
type run[T any] struct {
	*Engine

	call   Call
	send   SendFunc[T]
	hedged bool
	// evaluate reports whether a response is final. nil: every response is.
	evaluate func(ctx context.Context, value *T, others Others) bool

	callerCtx      context.Context    //nolint:containedctx // valid until the call returns
	ctx            context.Context    //nolint:containedctx // bounds callerCtx, not for hedges
	cancel         context.CancelFunc // cancels ctx; nil if ctx is callerCtx
	defaultTimeout time.Duration      // 0 if the caller's deadline bounds the call
	retryUntil     time.Time          // no attempt starts later; zero if a deadline bounds the call

	attempts          int  // those that count against the policy
	ambiguous         bool // an attempt may have been applied
	tokenRetried      bool // there was a retry because of a refused token
	connectionRetried bool // there was a retry because of a lost connection
	backoff           backoff.BackOff

	// The attempts of the first round are part of the struct to save allocations.
	first wire.Attempt
	hedge hedge[T]
}

// result is the result of one attempt.
type result[T any] struct {
	value             T
	err               error
	class             Class  // of err
	condition         error  // of err
	final             bool   // it settles the call, whatever the other attempts return
	replacesAmbiguous bool   // an attempt that it replaces may have been applied
	peer              string // the member of a failed attempt, if known
}

func (r *run[T]) do() (value T, err error) {
	for n := 1; ; n++ {
		x := r.round()
		if x.err == nil {
			return x.value, nil
		}
		if x.final || r.ctx.Err() != nil || r.isClosed() || r.retryTimeExpired() || !r.shouldRetry(x.class, x.err) {
			return value, r.opError(x)
		}
		r.retries.Add(1)
		r.Logger.DebugContext(r.ctx, "etcd call is repeated", append(r.logAttrs(), "attempt", n, "error", x.err)...)
		r.Scope.Retry(r.callerCtx, scope.Operation{Package: r.call.Pkg, Name: r.call.Op}, n, x.err)
		if !r.pause(x.class) {
			if r.call.Raw && r.ctx.Err() != nil {
				x.err = r.ctx.Err() // as client/v3 returns when it waits
			}
			return value, r.opError(x)
		}
	}
}

// logAttrs returns the attributes that identify the call.
func (r *run[T]) logAttrs() []any {
	attrs := []any{"op", r.call.Op}
	if key := r.call.Dir + r.call.Key; key != "" {
		attrs = append(attrs, "key", errs.Short(key))
	}
	return attrs
}

// retryTimeExpired reports whether no further attempt may start.
func (r *run[T]) retryTimeExpired() bool {
	return !r.retryUntil.IsZero() && !time.Now().Before(r.retryUntil)
}

// round makes one attempt and, if it is slow and the call may be hedged, a second one in parallel.
// It returns the result that settles the call, or else the one that decides about retries.
func (r *run[T]) round() result[T] {
	r.attempts++
	first := r.startRound()
	if !r.hedged {
		timer := startOverdueTimer(r.Engine, first)
		x := r.sendAttempt(first, r.ambiguous)
		timer.stop()
		return r.finish(x, r.earlierAttempts())
	}
	h := r.newHedge(first)
	timer := time.AfterFunc(r.hedger.delay(r.latencyKind(), r.timeLeft()), h.start)
	defer timer.Stop()
	x := r.sendAttempt(first, r.ambiguous)
	if h.claimed.CompareAndSwap(false, true) {
		return r.finish(x, r.earlierAttempts()) // there is no second attempt and will be none
	}
	defer h.cancel() // the other attempt is canceled only once the result is final
	close(h.firstDone)
	x, y := r.awaitFinal(h, x)
	switch {
	case x.final:
		return x
	case y.final:
		return y
	case y.err == nil:
		return r.finish(y, max(r.earlierAttempts(), r.outcomeOf(&x)))
	case x.err == nil:
		return r.finish(x, max(r.earlierAttempts(), r.outcomeOf(&y)))
	}
	r.ambiguous = max(r.earlierAttempts(), r.outcomeOf(&x), r.outcomeOf(&y)) == OthersUnknown
	if x.class == Permanent || x.class == AmbiguousPermanent {
		return y // may allow a retry
	}
	return x
}

// awaitFinal returns the results of the first attempt, which has returned first, and of the hedge,
// which is in flight. If the first attempt failed, it is replaced until it settles the call or the
// hedge has returned.
func (r *run[T]) awaitFinal(h *hedge[T], first result[T]) (x, y result[T]) {
	for x = first; ; {
		if x.final = r.isFinal(&x, OthersInFlight); x.final {
			return x, y
		}
		r.ambiguous = max(r.earlierAttempts(), r.outcomeOf(&x)) == OthersUnknown
		if r.ctx.Err() != nil || r.isClosed() || r.retryTimeExpired() || !r.isReplaceable(&x) || !r.shouldRetry(x.class, x.err) {
			return x, <-h.result // arrives at the deadline at the latest
		}
		timer := time.NewTimer(r.nextDelay(x.class))
		select {
		case y = <-h.result:
			timer.Stop()
			return x, y
		case <-timer.C:
		}
		r.attempts++
		x = h.replaceFirst(r.ctx)
	}
}

// isReplaceable reports whether another attempt may replace x, which has failed, while the other
// one is in flight, possibly at a member that never responds.
func (r *run[T]) isReplaceable(x *result[T]) bool {
	switch x.class {
	case NoLeader, Ambiguous:
		return x.err != nil
	case Retryable, Overloaded:
		return x.err != nil && r.call.Read
	case InvalidToken, Permanent, AmbiguousPermanent:
	}
	return false
}

// startRound returns the first attempt of a round.
func (r *run[T]) startRound() *wire.Attempt {
	if r.first.Context != nil {
		return r.newAttempt(r.ctx)
	}
	return r.initAttempt(r.ctx, &r.first)
}

// newAttempt returns an attempt with ctx.
func (r *run[T]) newAttempt(ctx context.Context) *wire.Attempt {
	return r.initAttempt(ctx, new(wire.Attempt))
}

// initAttempt starts a with ctx and counts it for the observer.
func (r *run[T]) initAttempt(ctx context.Context, a *wire.Attempt) *wire.Attempt {
	r.Scope.Attempt(r.callerCtx)
	a.Start(ctx, r.Observed)
	if r.defaultTimeout > 0 {
		a.KeepDeadline()
	}
	return a
}

// newHedge returns the second attempt of the round whose first attempt is first.
func (r *run[T]) newHedge(first *wire.Attempt) *hedge[T] {
	h := &r.hedge
	if h.run != nil {
		h = new(hedge[T]) // the one of an earlier round may still be in flight
	}
	h.run, h.first = r, first
	return h
}

// sendAttempt makes one attempt, which may take as long as the call.
func (r *run[T]) sendAttempt(a *wire.Attempt, repeated bool) (x result[T]) {
	startedAt := time.Now()
	x.value, x.err = r.send(a, repeated)
	if x.err == nil {
		if r.hedged {
			r.hedger.observe(r.latencyKind(), time.Since(startedAt))
		}
		return x
	}
	x.class, x.condition = Classify(x.err, a.NotSent())
	x.peer = a.Peer()
	return x
}

// earlierAttempts returns the state of the attempts of earlier rounds.
func (r *run[T]) earlierAttempts() Others {
	if r.ambiguous {
		return OthersUnknown
	}
	return OthersNotApplied
}

// outcomeOf returns the state of the attempt that returned x, for the evaluation of another
// attempt. An attempt whose response did not settle the call was not applied.
func (r *run[T]) outcomeOf(x *result[T]) Others {
	if x.replacesAmbiguous || x.err != nil && !r.call.Read && x.class.MayBeApplied() {
		return OthersUnknown
	}
	return OthersNotApplied
}

// errNotFinal is the error of a response that does not show whether another attempt was applied.
var errNotFinal = errors.New("the response does not show whether an earlier attempt was applied")

// finish evaluates x when no other attempt is in flight. If x does not settle the call, it becomes
// an error.
func (r *run[T]) finish(x result[T], others Others) result[T] {
	if x.replacesAmbiguous {
		others = OthersUnknown
	}
	r.ambiguous = max(others, r.outcomeOf(&x)) == OthersUnknown
	x.final = r.isFinal(&x, others)
	if x.err == nil && !x.final {
		x.err, x.class, x.condition = errNotFinal, Ambiguous, errs.Unavailable
	}
	return x
}

// isFinal reports whether x settles the call. While another attempt is in flight, an error settles
// only a read, and only if every member returns it. A future revision is not such an error, because
// a member that lags behind does not know a revision that others have.
func (r *run[T]) isFinal(x *result[T], others Others) bool {
	if x.err != nil {
		return others == OthersInFlight && r.call.Read && x.class == Permanent && !isFutureRevision(x.err)
	}
	return r.evaluate == nil || r.evaluate(r.ctx, &x.value, others)
}

func (r *run[T]) latencyKind() int {
	if r.call.Read {
		return kindRead
	}
	return kindWrite
}

// timeLeft returns the time until the deadline of the call, or 0 if it has none.
func (r *run[T]) timeLeft() time.Duration {
	if deadline, ok := r.ctx.Deadline(); ok {
		return max(time.Until(deadline), 1)
	}
	return 0
}

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
