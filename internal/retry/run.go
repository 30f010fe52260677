package retry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// run is one call under way.
type run[T any] struct {
	*Engine

	call     Call
	send     Attempt[T]
	final    func(ctx context.Context, answer *T, others Others) bool // nil: every answer is
	hedged   bool
	caller   context.Context    //nolint:containedctx // as the call was given it
	ctx      context.Context    //nolint:containedctx // caller, bounded, for all attempts but second ones
	cancel   context.CancelFunc // of ctx; nil where ctx is the caller's
	given    time.Duration      // the default that bounds the call, 0 where the caller's deadline does
	until    time.Time          // when the last attempt may begin, zero where a deadline bounds the call
	attempts int                // that count
	doubt    bool               // an attempt may have been applied
	reauth   bool               // the token was refused once
	lost     bool               // a lost connection was made up for once
	waits    backoff.BackOff

	// Of the first round. In here they are no allocations of their own.
	first  wire.Attempt
	beside second[T]
}

// result is what came of one attempt.
type result[T any] struct {
	answer    T
	err       error
	class     Class  // of err
	condition error  // of err
	settled   bool   // the call is over with it, whatever becomes of other attempts
	lost      bool   // an attempt in whose place it was made may have been applied
	peer      string // the member that the attempt was sent to, if it failed and that is known
}

func (r *run[T]) do() (answer T, err error) {
	for n := 1; ; n++ {
		x := r.round()
		if x.err == nil {
			return x.answer, nil
		}
		if x.settled || r.ctx.Err() != nil || r.closed() || r.late() || !r.again(x.class, x.err) {
			return answer, r.fail(x)
		}
		r.retries.Add(1)
		r.Logger.DebugContext(r.ctx, "etcd call is repeated", append(r.logAttrs(), "attempt", n, "error", x.err)...)
		if r.Observe != nil {
			r.Observe(r.call.Op, n, x.err)
		}
		if !r.pause(x.class) {
			if r.call.Raw && r.ctx.Err() != nil {
				x.err = r.ctx.Err() // as where client/v3 waits
			}
			return answer, r.fail(x)
		}
	}
}

// logAttrs says which call it is.
func (r *run[T]) logAttrs() []any {
	attrs := []any{"op", r.call.Op}
	if key := r.call.Dir + r.call.Key; key != "" {
		attrs = append(attrs, "key", errs.Short(key))
	}
	return attrs
}

// late reports whether no further attempt may begin.
func (r *run[T]) late() bool { return !r.until.IsZero() && !time.Now().Before(r.until) }

// round makes one attempt and, if that is slow and the call may be hedged, a second one beside it. It returns the result
// that counts: one that settles the call if there is one.
func (r *run[T]) round() result[T] {
	r.attempts++
	first := r.beginRound()
	if !r.hedged {
		timer := startOverdueTimer(r.Engine, first)
		x := r.attempt(first, r.doubt)
		timer.stop()
		return r.conclude(x, r.others())
	}
	s := r.secondFor(first)
	timer := time.AfterFunc(r.hedger.delay(r.kind(), r.left()), s.start)
	defer timer.Stop()
	x := r.attempt(first, r.doubt)
	if s.claimed.CompareAndSwap(false, true) {
		return r.conclude(x, r.others()) // there is no second attempt, nor will there be
	}
	defer s.cancel() // the loser ends only now that the outcome is final
	close(s.firstOver)
	x, y := r.await(s, x)
	switch {
	case x.settled:
		return x
	case y.settled:
		return y
	case y.err == nil:
		return r.conclude(y, max(r.others(), r.fate(&x)))
	case x.err == nil:
		return r.conclude(x, max(r.others(), r.fate(&y)))
	}
	r.doubt = max(r.others(), r.fate(&x), r.fate(&y)) == Lost
	if x.class == Hopeless || x.class == Full {
		return y // the more hopeful one decides about repeats
	}
	return x
}

// await returns what comes of the first attempt, which is over with x, and of the second one, which is under way: the
// first, and what is made in its place if it fails, until it settles the call or the second one is over as well.
func (r *run[T]) await(s *second[T], first result[T]) (x, y result[T]) {
	for x = first; ; {
		if x.settled = r.settles(&x, Out); x.settled {
			return x, y
		}
		r.doubt = max(r.others(), r.fate(&x)) == Lost
		if r.ctx.Err() != nil || r.closed() || r.late() || !r.replaceable(&x) || !r.again(x.class, x.err) {
			return x, <-s.result // at the deadline, if not before
		}
		timer := time.NewTimer(r.wait(x.class))
		select {
		case y = <-s.result:
			timer.Stop()
			return x, y
		case <-timer.C:
		}
		r.attempts++
		x = s.replace(r.ctx)
	}
}

// replaceable reports whether another attempt may take the place of x, which has failed, while the other one is under way:
// that one may be at a member that never answers.
func (r *run[T]) replaceable(x *result[T]) bool {
	switch x.class {
	case Leaderless, Ambiguous:
		return x.err != nil
	case Refused, Busy:
		return x.err != nil && r.call.Read
	case Reauth, Hopeless, Full:
	}
	return false
}

// beginRound returns the first attempt of a round.
func (r *run[T]) beginRound() *wire.Attempt {
	if r.first.Context != nil {
		return r.begin(r.ctx)
	}
	return r.prepare(r.ctx, &r.first)
}

// begin returns an attempt with ctx.
func (r *run[T]) begin(ctx context.Context) *wire.Attempt { return r.prepare(ctx, new(wire.Attempt)) }

func (r *run[T]) prepare(ctx context.Context, a *wire.Attempt) *wire.Attempt {
	a.Start(ctx, r.Observed)
	if r.given > 0 {
		a.KeepDeadline()
	}
	return a
}

// secondFor returns the second attempt of the round that first begins.
func (r *run[T]) secondFor(first *wire.Attempt) *second[T] {
	s := &r.beside
	if s.run != nil {
		s = new(second[T]) // that of an earlier round may still be at work
	}
	s.run, s.first = r, first
	return s
}

// attempt makes one attempt. It has all the time of the call: one that is slow is not given up for another.
func (r *run[T]) attempt(a *wire.Attempt, again bool) (x result[T]) {
	began := time.Now()
	x.answer, x.err = r.send(a, again)
	if x.err == nil {
		if r.hedged {
			r.hedger.answered(r.kind(), time.Since(began))
		}
		return x
	}
	x.class, x.condition = Classify(x.err, a.NotSent())
	x.peer = a.Peer()
	return x
}

// others is what is known of the attempts of earlier rounds.
func (r *run[T]) others() Others {
	if r.doubt {
		return Lost
	}
	return None
}

// fate is what x says about its own attempt, for whoever looks at another one. An answer that did not settle the call has
// said that it was not applied.
func (r *run[T]) fate(x *result[T]) Others {
	if x.lost || x.err != nil && !r.call.Read && x.class.Applied() {
		return Lost
	}
	return None
}

// errUnsettled stands for an answer that does not tell what became of another attempt.
var errUnsettled = errors.New("the answer does not tell what became of an earlier attempt")

// conclude finds out whether x settles the call now that no other attempt is under way. If not, x becomes an error.
func (r *run[T]) conclude(x result[T], others Others) result[T] {
	if x.lost {
		others = Lost
	}
	r.doubt = max(others, r.fate(&x)) == Lost
	x.settled = r.settles(&x, others)
	if x.err == nil && !x.settled {
		x.err, x.class, x.condition = errUnsettled, Ambiguous, errs.Unavailable
	}
	return x
}

// settles reports whether the call is over with x. While another attempt is under way, errors end only a read, and only
// those that every member gives: a member that lags behind does not know a revision that others have.
func (r *run[T]) settles(x *result[T], others Others) bool {
	if x.err != nil {
		return others == Out && r.call.Read && x.class == Hopeless && !futureRevision(x.err)
	}
	return r.final == nil || r.final(r.ctx, &x.answer, others)
}

func (r *run[T]) kind() int {
	if r.call.Read {
		return kindRead
	}
	return kindWrite
}

// left is what remains of the call's time, 0 for no limit.
func (r *run[T]) left() time.Duration {
	if deadline, ok := r.ctx.Deadline(); ok {
		return max(time.Until(deadline), 1)
	}
	return 0
}

// again decides whether to make another attempt after one that failed with err, of the given class.
func (r *run[T]) again(class Class, err error) bool {
	switch class {
	case Hopeless, Full:
		return false
	case Leaderless:
		return true // until the deadline: elections end
	case Busy:
		return r.doubt && r.call.Guarded || r.call.Persistent || r.budget.Take() // until the deadline, or until there are too many of us
	case Reauth:
		first := !r.reauth
		r.reauth = true
		return first
	case Refused, Ambiguous:
	}
	if r.doubt {
		return r.call.Guarded // until the answer is definite
	}
	if r.call.Persistent {
		return true
	}
	if r.attempts >= r.Policy.MaxAttempts {
		return false
	}
	if !r.lost && connectionLost(err) {
		r.lost = true // outside the budget, once a call: it is no sign of a cluster in trouble
		return true
	}
	return r.budget.Take()
}

// electionPause is the longest wait for a leader, and for a definite answer: in a cluster that loses its leaders again and
// again, the times in which it works are short.
const electionPause = 500 * time.Millisecond

// pause waits before the next attempt. It reports whether the call is still wanted.
func (r *run[T]) pause(class Class) bool {
	if class == Reauth {
		return true // the new token is there
	}
	wait := r.wait(class)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var closing <-chan struct{}
	if life := r.life(); life != nil {
		closing = life.Done()
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

// wait returns how long to wait before the next attempt.
func (r *run[T]) wait(class Class) time.Duration {
	if class == Leaderless || class == Busy {
		r.attempts-- // waiting is no attempt
	}
	if r.waits == nil {
		r.waits = r.Policy.Backoff()
		r.waits.Reset()
	}
	wait := r.waits.NextBackOff()
	if class == Leaderless || r.doubt {
		wait = min(wait, electionPause)
	}
	return wait
}

// fail makes the error of the whole call from that of its last attempt.
func (r *run[T]) fail(x result[T]) error {
	if r.doubt {
		r.unknown.Add(1)
	}
	if r.call.Raw {
		return x.err
	}
	out := &errs.Error{Pkg: r.call.Pkg, Op: r.call.Op, Key: r.call.Dir + r.call.Key, Unchanged: !r.doubt}
	switch {
	case r.closed():
		out.Err = Explain(x.err, errClientClosed)
	case !x.settled && r.ctx.Err() != nil: // a second attempt that settles the call cancels the context
		out.Err = r.outOfTime(x)
	default:
		out.Err = Explain(x.err, x.condition)
	}
	if r.doubt {
		out.Err = fmt.Errorf("%w: %w", errs.UnknownOutcome, out.Err)
	}
	return out
}

// outOfTime tells the end of the context apart: the caller's wish, or a cluster that did not answer, and then why.
func (r *run[T]) outOfTime(x result[T]) error {
	out := ContextError(r.ctx)
	if !errors.Is(out, context.DeadlineExceeded) {
		return out
	}
	if r.given > 0 {
		out = fmt.Errorf("%w (default timeout %v)", out, r.given)
	}
	out = fmt.Errorf("%w: %w", errs.Unavailable, out)
	silent := x.peer // it was asked last, and has not answered
	if !errors.Is(x.err, context.DeadlineExceeded) && !errors.Is(x.err, context.Canceled) {
		out, silent = fmt.Errorf("%w: %w", out, x.err), ""
	}
	if r.Client == nil {
		return out
	}
	return fmt.Errorf("%w: %w", out, wire.ExplainTimeout(r.Client, silent))
}
