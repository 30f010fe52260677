package lock

import (
	"context"
	"errors"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// maxCampaignBackoff is the longest pause between two campaigns of [Election.Run].
const maxCampaignBackoff = 5 * time.Second

// LeaderFunc is a function that runs while its caller leads. ctx is derived from the caller's
// context and also ends, with cause [ErrLost], when the leadership is lost. l.Context() ends only
// with the leadership.
type LeaderFunc = func(ctx context.Context, l *Leadership) error

// Run campaigns, and calls f each time that it is elected, until f returns while it leads or ctx
// ends. When the leadership is lost, Run waits for f to return, and campaigns again unless f
// returns an error of its own. When f returns, Run resigns before it continues or returns.
//
// The context of f is derived from ctx and also ends, with cause [ErrLost], when the leadership is
// lost. l.Context() ends with the leadership alone. Use it to hand over after ctx has ended. f must
// return when its context ends: until it does, Run does nothing else.
//
// Run returns nil after a clean stop: f returned nil, or ctx has ended and f, if it was running,
// returned nil or an error of its context. Otherwise it returns the error of f, that of a campaign
// that cannot succeed ([ErrInvalid], [ErrPermission], [ErrClosed], [*BlockedError]), or that of
// resigning.
//
// If etcd does not answer, or does not accept the user or the password, Run waits for up to 5 s and
// campaigns again. An error of f ends Run and the candidacy, also after a loss of the leadership.
// The only exception is an error of the context of f after a loss. Retry within f what may fail
// temporarily.
//
// Leader and Observe show value to others. It can be the address of this process, for example. It
// need not be unique.
func (e *Election) Run(ctx context.Context, value string, f LeaderFunc) error {
	if f == nil {
		return opError("run", e.kind.name, errs.Invalidf("no function"))
	}
	backoffs := newBackoff(maxCampaignBackoff)
	// When campaigns began to fail, which is logged at the beginning and at the end.
	var failingSince time.Time
	onEnqueued := func() {
		if !failingSince.IsZero() {
			lasted := time.Since(failingSince).Round(time.Millisecond)
			failingSince = time.Time{}
			e.l.logger.WarnContext(ctx, "campaigning resumed", "name", errs.Short(e.kind.name), "after", lasted)
		}
	}
	for {
		startedAt := time.Now()
		done, err := e.campaignAndLead(ctx, value, onEnqueued, f)
		if done {
			return err
		}
		// A loss is logged where it is detected.
		if ctx.Err() == nil && failingSince.IsZero() && !errors.Is(err, ErrLost) {
			failingSince = time.Now()
			e.l.logger.WarnContext(ctx, "campaigning failed", "name", errs.Short(e.kind.name), "error", err)
		}
		if time.Since(startedAt) > maxCampaignBackoff {
			backoffs.Reset()
		}
		if retry.Sleep(ctx, backoffs.NextBackOff()) != nil {
			return nil //nolint:nilerr // the end of ctx ends Run
		}
	}
}

// campaignAndLead campaigns once and leads once. done reports whether Run must return err. If not,
// err is why the leadership was not acquired or was lost, and Run campaigns again.
func (e *Election) campaignAndLead(ctx context.Context, value string, onEnqueued func(), f LeaderFunc) (done bool, err error) {
	l, err := e.campaign(ctx, value, onEnqueued)
	switch {
	case err == nil:
	case isPermanent(err) && !errors.Is(err, errs.Unauthenticated):
		return true, err
	default: // includes a wrong password, which may be rotated
		return false, err
	}
	err, resigned := l.lead(ctx, e.l, f)
	lost := errors.Is(resigned, ErrLost)
	switch {
	case err != nil && !isContextError(err), err != nil && !lost && ctx.Err() == nil:
		return true, err
	case lost && ctx.Err() == nil:
		return errors.Is(resigned, errs.Closed), resigned
	case lost || errors.Is(resigned, ErrReleased):
		return true, nil
	}
	return true, resigned
}

// lead calls f and resigns, also if f panics.
func (l *Leadership) lead(ctx context.Context, in *Locker, f func(context.Context, *Leadership) error) (err, resigned error) {
	done, err := in.startFunc()
	if err != nil {
		return newLostError(err), l.Release(ctx)
	}
	defer done()
	bound, stop := l.Bind(ctx)
	defer stop()
	defer l.Release(ctx) //nolint:errcheck // for a panic: a second Release does nothing
	err = f(bound, l)
	return err, l.Release(ctx)
}

// isContextError reports whether err is that of a context that has ended, or a loss.
func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrLost)
}

// isPermanent reports whether a retry would fail in the same way.
func isPermanent(err error) bool {
	_, blocked := errors.AsType[*BlockedError](err)
	return blocked || errors.Is(err, errs.Invalid) || errors.Is(err, errs.Permission) || errors.Is(err, errs.Unauthenticated) ||
		errors.Is(err, errs.Closed)
}
