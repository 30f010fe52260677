package retry

import (
	"context"
	"errors"
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
