package lock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// campaignMost is the longest pause between two campaigns of [Election.Run].
const campaignMost = 5 * time.Second

// LeaderFunc is work of a leader. ctx is the caller's, and also ends, with cause [ErrLost], when the leadership is lost.
// l.Context() ends only with the leadership.
type LeaderFunc = func(ctx context.Context, l *Leadership) error

// Run campaigns, and calls f each time that it is elected, until f returns while it leads or ctx ends. When the leadership
// is lost it awaits f, and campaigns again. When f returns it resigns, and only then goes on or returns.
//
// f's context is ctx, and also ends, with cause [ErrLost], when the leadership is lost; l.Context() ends with the
// leadership alone: it is the context for handing over in good order after ctx has ended. f has to return when its
// context ends: until it does, nothing else happens.
//
// A clean stop is nil: f has returned nil, or ctx has ended and f returned nil or an error of its context. Otherwise the
// error is f's own, or that of a campaign that cannot succeed ([ErrInvalid], [ErrPermission], [ErrClosed],
// [*BlockedError]), or that of resigning. Being without etcd is none: Run goes on trying. But an error of f while it leads
// ends Run, and with it the candidacy: what may fail for a moment, try again within f.
//
// value is what Leader and Observe show others, such as the address of this process. It need not be unique.
func (e *Election) Run(ctx context.Context, value string, f LeaderFunc) error {
	switch {
	case f == nil:
		return fail("run", e.spec.name, fmt.Errorf("%w: no function", errs.Invalid))
	case ctx == nil:
		return fail("run", e.spec.name, errNoContext)
	}
	pauses := retry.Policy{BaseDelay: pauseBetween, MaxDelay: campaignMost}.Backoff()
	pauses.Reset()
	for {
		began := time.Now()
		over, err := e.serve(ctx, value, f)
		if over {
			return err
		}
		if ctx.Err() == nil {
			e.l.log(ctx, "campaigns again", e.spec.name, err)
		}
		if time.Since(began) > campaignMost {
			pauses.Reset()
		}
		if !sleep(ctx, pauses.NextBackOff()) {
			return nil
		}
	}
}

// serve campaigns once, and leads once. over says that this was the end; else err says why it is not.
func (e *Election) serve(ctx context.Context, value string, f func(context.Context, *Leadership) error) (over bool, err error) {
	l, err := e.Campaign(ctx, value)
	switch {
	case err == nil:
	case hopeless(err):
		return true, err
	default:
		return false, err
	}
	err, resigned := l.term(ctx, f)
	gone := errors.Is(resigned, ErrLost)
	switch {
	case err != nil && !ofContext(err), err != nil && !gone && ctx.Err() == nil:
		return true, err
	case gone && ctx.Err() == nil:
		return errors.Is(resigned, errs.Closed), resigned
	case gone || errors.Is(resigned, ErrReleased):
		return true, nil
	}
	return true, resigned
}

// term calls f and resigns, also when f panics.
func (l *Leadership) term(ctx context.Context, f func(context.Context, *Leadership) error) (err, resigned error) {
	bound, stop := l.Bind(ctx)
	defer stop()
	defer l.Release(ctx) //nolint:errcheck // for a panic: a second release does nothing
	err = f(bound, l)
	return err, l.Release(ctx)
}

// ofContext reports whether a function has returned because its context ended.
func ofContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrLost)
}

// hopeless reports whether campaigning again would fail the same way.
func hopeless(err error) bool {
	_, blocked := errors.AsType[*BlockedError](err)
	return blocked || errors.Is(err, errs.Invalid) || errors.Is(err, errs.Permission) || errors.Is(err, errs.Unauthenticated) ||
		errors.Is(err, errs.Closed)
}
