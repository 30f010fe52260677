package lock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// maxCampaignBackoff is the longest pause between two campaigns of [Election.Run].
const maxCampaignBackoff = 5 * time.Second

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
// [*BlockedError]), or that of resigning. If etcd does not answer, or does not accept the user or the password for now, Run
// waits, up to 5 s at a time, and campaigns again. But an error of f while it leads
// ends Run, and with it the candidacy: what may fail for a moment, try again within f.
//
// value is what Leader and Observe show others, such as the address of this process. It need not be unique.
func (e *Election) Run(ctx context.Context, value string, f LeaderFunc) error {
	switch {
	case f == nil:
		return fail("run", e.kind.name, fmt.Errorf("%w: no function", errs.Invalid))
	case ctx == nil:
		return fail("run", e.kind.name, errNoContext)
	}
	pauses := newBackoff(maxCampaignBackoff)
	var failing time.Time // since when campaigns fail; logged once when it begins and once when it ends
	enqueued := func() {
		if !failing.IsZero() {
			lasted := time.Since(failing).Round(time.Millisecond)
			failing = time.Time{}
			e.l.logger.WarnContext(ctx, "campaigns go on", "name", errs.Short(e.kind.name), "after", lasted)
		}
	}
	for {
		began := time.Now()
		over, err := e.serve(ctx, value, enqueued, f)
		if over {
			return err
		}
		if ctx.Err() == nil && failing.IsZero() && !errors.Is(err, ErrLost) { // a loss is logged where it is noticed
			failing = time.Now()
			e.l.logger.WarnContext(ctx, "campaigns fail", "name", errs.Short(e.kind.name), "error", err)
		}
		if time.Since(began) > maxCampaignBackoff {
			pauses.Reset()
		}
		if !sleep(ctx, pauses.NextBackOff()) {
			return nil
		}
	}
}

// serve campaigns once, and leads once. over says that this was the end; else err says why it is not.
func (e *Election) serve(ctx context.Context, value string, enqueued func(), f LeaderFunc) (over bool, err error) {
	l, err := e.campaign(ctx, value, enqueued)
	switch {
	case err == nil:
	case permanent(err) && !errors.Is(err, errs.Unauthenticated):
		return true, err
	default: // also with a password that is wrong for now: it may be rotated
		return false, err
	}
	err, resigned := l.term(ctx, e.l, f)
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
func (l *Leadership) term(ctx context.Context, in *Locker, f func(context.Context, *Leadership) error) (err, resigned error) {
	done, err := in.beginFunc()
	if err != nil {
		return lost(err), l.Release(ctx)
	}
	defer done()
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

// permanent reports whether trying again would fail the same way.
func permanent(err error) bool {
	_, blocked := errors.AsType[*BlockedError](err)
	return blocked || errors.Is(err, errs.Invalid) || errors.Is(err, errs.Permission) || errors.Is(err, errs.Unauthenticated) ||
		errors.Is(err, errs.Closed)
}
