package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

const (
	// Without a deadline, Open gives up after this long without progress.
	openTimeout = 10 * time.Second
	probeDelay  = 500 * time.Millisecond // a healthy watch is live by then
)

// await waits until the first watch is live. A watch retries until it succeeds and does not report
// failed attempts. So if it takes long, await makes a read to find out the cause.
func (d *watchedDir) await(ctx context.Context, progress func() uint64) error {
	timeout := time.NewTicker(openTimeout)
	defer timeout.Stop()
	delay := probeDelay
	if end, ok := ctx.Deadline(); ok {
		timeout.Stop()
		delay = min(delay, time.Until(end)/2) // the rest is for the response
	}
	probe := time.NewTimer(max(delay, time.Microsecond))
	defer probe.Stop()
	probeCtx, stop := context.WithCancel(ctx)
	defer stop()
	var probed chan error // result of the read; nil if none is pending
	var probeErr error    // error of the last read
	before := progress()
	for {
		select {
		case <-d.watch.Ready():
			return nil
		case <-d.watch.Ended():
			return d.cause()
		case <-probe.C:
			probed = make(chan error, 1)
			d.spawn(func() { probed <- d.probe(probeCtx) })
		case probeErr = <-probed:
			if probed = nil; isPermanent(probeErr) {
				return probeErr
			}
		case <-ctx.Done():
			if probed != nil {
				probeErr = <-probed // ends with ctx
			}
			return d.notLiveError(retry.ContextError(ctx), probeErr)
		case <-timeout.C:
			if now := progress(); now != before {
				before = now
				continue
			}
			return d.notLiveError(context.DeadlineExceeded, probeErr)
		}
	}
}

// probe makes a read and returns its error.
func (d *watchedDir) probe(ctx context.Context) error {
	_, err := d.store.Exists(ctx, probeKey)
	return errs.Cause(err)
}

// isPermanent reports whether err means that waiting longer is of no use.
func isPermanent(err error) bool {
	return errors.Is(err, errs.Permission) || errors.Is(err, errs.Unauthenticated) || errors.Is(err, errs.Closed)
}

// notLiveError returns the error for a caller whose wait for the first watch ended with err.
// probeErr is the error of the last read, which names the endpoints.
func (d *watchedDir) notLiveError(err, probeErr error) error {
	switch {
	case !errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(probeErr, errs.Unavailable) && errors.Is(probeErr, context.DeadlineExceeded):
		return probeErr
	case probeErr != nil && !errors.Is(probeErr, errs.Unavailable):
		return fmt.Errorf("%w: %w: %w", errs.Unavailable, err, probeErr)
	case probeErr != nil:
		return fmt.Errorf("%w: %w", err, probeErr)
	}
	return d.withWatchError(fmt.Errorf("%w: %w: the watch did not become live", errs.Unavailable, err))
}

// waitError returns the error for a caller whose wait for etcd ended with ctx. If the deadline has
// passed, it includes the cause.
func (d *watchedDir) waitError(ctx context.Context) error {
	err := retry.ContextError(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return d.withWatchError(fmt.Errorf("%w: %w", errs.Unavailable, err))
}

// withWatchError adds to err why the watch is down, if that is known.
func (d *watchedDir) withWatchError(err error) error {
	if cause := d.cause(); cause != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}
