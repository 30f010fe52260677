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
	openPatient = 10 * time.Second       // without a deadline, Open gives up after this long without progress
	probeAfter  = 500 * time.Millisecond // a healthy watch is live by then
)

// await waits until the first watch is live. A watch retries until it succeeds and does not report
// failed attempts. So if it takes long, await makes a read to find out the cause.
func (f *feed) await(ctx context.Context, progress func() uint64) error {
	patience := time.NewTicker(openPatient)
	defer patience.Stop()
	wait := probeAfter
	if end, ok := ctx.Deadline(); ok {
		patience.Stop()
		wait = min(wait, time.Until(end)/2) //nolint:mnd // half of the time is for the response
	}
	slow := time.NewTimer(max(wait, time.Microsecond))
	defer slow.Stop()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var answer chan error // result of the read; nil if none is pending
	var down error        // error of the last read
	before := progress()
	for {
		select {
		case <-f.ready:
			return nil
		case <-f.ended:
			return f.why()
		case <-slow.C:
			answer = make(chan error, 1)
			f.spawn(func() { answer <- f.probe(reading) })
		case down = <-answer:
			if answer = nil; refused(down) {
				return down
			}
		case <-ctx.Done():
			if answer != nil {
				down = <-answer // ends with ctx
			}
			return f.notLive(retry.ContextError(ctx), down)
		case <-patience.C:
			if now := progress(); now != before {
				before = now
				continue
			}
			return f.notLive(context.DeadlineExceeded, down)
		}
	}
}

// probe makes a read and returns its error.
func (f *feed) probe(ctx context.Context) error {
	_, err := f.store.Exists(ctx, anyKey)
	return errs.Cause(err)
}

// refused reports whether err means that waiting longer is of no use.
func refused(err error) bool {
	return errors.Is(err, errs.Permission) || errors.Is(err, errs.Unauthenticated) || errors.Is(err, errs.Closed)
}

// notLive returns the error for a caller whose wait for the first watch ended with err. down is the
// error of the last read, which names the endpoints.
func (f *feed) notLive(err, down error) error {
	switch {
	case !errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(down, errs.Unavailable) && errors.Is(down, context.DeadlineExceeded):
		return down
	case down != nil && !errors.Is(down, errs.Unavailable):
		return fmt.Errorf("%w: %w: %w", errs.Unavailable, err, down)
	case down != nil:
		return fmt.Errorf("%w: %w", err, down)
	}
	return f.because(fmt.Errorf("%w: %w: the watch did not become live", errs.Unavailable, err))
}

// gaveUp returns the error for a caller whose wait for etcd ended with ctx. If the deadline has
// passed, it includes the cause.
func (f *feed) gaveUp(ctx context.Context) error {
	err := retry.ContextError(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return f.because(fmt.Errorf("%w: %w", errs.Unavailable, err))
}

// because adds to err why the watch is down, if that is known.
func (f *feed) because(err error) error {
	if why := f.why(); why != nil {
		return fmt.Errorf("%w: %w", err, why)
	}
	return err
}
