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
type run struct {
	*Engine

	call     Call
	ctx      context.Context //nolint:containedctx // lives as long as the call
	given    time.Duration   // the default that bounds the call, 0 where the caller's deadline does
	until    time.Time       // when the last attempt may begin, zero where a deadline bounds the call
	attempts int             // that count
	doubt    bool            // an attempt may have been applied
	reauth   bool            // the token was refused once
	lost     bool            // a lost connection was made up for once
	waits    backoff.BackOff
}

func (r *run) do(f Attempt) error {
	for n := 1; ; n++ {
		err, notSent := r.attempt(f)
		if err == nil {
			return nil
		}
		class, condition := Classify(err, notSent)
		if !r.call.Read && class.Applied() {
			r.doubt = true
		}
		if r.ctx.Err() != nil || r.closed() || r.late() || !r.again(class, err) {
			return r.fail(err, condition)
		}
		r.retries.Add(1)
		attrs := []any{"op", r.call.Op}
		if r.call.Key != "" {
			attrs = append(attrs, "key", errs.Short(r.call.Key))
		}
		r.Logger.DebugContext(r.ctx, "etcd call is repeated", append(attrs, "attempt", n, "error", err)...)
		if r.Observe != nil {
			r.Observe(r.call.Op, n, err)
		}
		if !r.pause(class) {
			if r.call.Raw && r.ctx.Err() != nil {
				err = r.ctx.Err() // as where client/v3 waits
			}
			return r.fail(err, condition)
		}
	}
}

// late reports whether no further attempt may begin.
func (r *run) late() bool { return !r.until.IsZero() && !time.Now().Before(r.until) }

// attempt makes one attempt. It has all the time of the call: one that is slow is not given up for another.
func (r *run) attempt(f Attempt) (err error, notSent bool) { //nolint:revive // the error is the subject here
	r.attempts++
	a := wire.Track(r.ctx, r.Observed)
	err = f(a, r.doubt)
	return err, a.NotSent()
}

// again decides whether to make another attempt after one that failed with err, of the given class.
func (r *run) again(class Class, err error) bool {
	switch class {
	case Hopeless, Full:
		return false
	case Leaderless:
		return true // until the deadline: elections end
	case Busy:
		return r.doubt && r.call.Guarded || r.budget.Take() // until the deadline, or until there are too many of us
	case Reauth:
		first := !r.reauth
		r.reauth = true
		return first
	case Refused, Ambiguous:
	}
	if r.doubt {
		return r.call.Guarded // until the answer is definite
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
func (r *run) pause(class Class) bool {
	if class == Reauth {
		return true // the new token is there
	}
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

// fail makes the error of the whole call from that of its last attempt.
func (r *run) fail(err, condition error) error {
	if r.doubt {
		r.unknown.Add(1)
	}
	if r.call.Raw {
		return err
	}
	out := &errs.Error{Pkg: r.call.Pkg, Op: r.call.Op, Key: r.call.Key, Unchanged: !r.doubt}
	switch {
	case r.closed():
		out.Err = Explain(err, errClientClosed)
	case r.ctx.Err() != nil:
		out.Err = r.outOfTime(err)
	default:
		out.Err = Explain(err, condition)
	}
	if r.doubt {
		out.Err = fmt.Errorf("%w: %w", errs.UnknownOutcome, out.Err)
	}
	return out
}

// outOfTime tells the end of the context apart: the caller's wish, or a cluster that did not answer, and then why.
func (r *run) outOfTime(err error) error {
	out := ContextError(r.ctx)
	if !errors.Is(out, context.DeadlineExceeded) {
		return out
	}
	if r.given > 0 {
		out = fmt.Errorf("%w (default timeout %v)", out, r.given)
	}
	out = fmt.Errorf("%w: %w", errs.Unavailable, out)
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		out = fmt.Errorf("%w: %w", out, err)
	}
	if r.Client == nil {
		return out
	}
	if why := wire.Explain(r.Client); why != nil {
		out = fmt.Errorf("%w: %w", out, why)
	}
	return out
}
