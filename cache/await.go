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
	openPatient = 10 * time.Second       // without a deadline, Open gives up when nothing has happened for so long
	probeAfter  = 500 * time.Millisecond // what a watch takes to become live, where all is well
)

// await waits until the first watch is live. A watch that is being opened tries for as long as it may, and does not say what
// it tries in vain: when that takes long, a read finds out.
func (f *feed) await(ctx context.Context, progress func() uint64) error {
	patience := time.NewTicker(openPatient)
	defer patience.Stop()
	wait := probeAfter
	if end, ok := ctx.Deadline(); ok {
		patience.Stop()
		wait = min(wait, time.Until(end)/2) //nolint:mnd // half of it is for the answer
	}
	slow := time.NewTimer(max(wait, time.Microsecond))
	defer slow.Stop()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var answer chan error // of the read; nil while there is none to come
	var down error        // what it has said
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
				down = <-answer // which ends with ctx too
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

// probe finds out how etcd answers a read.
func (f *feed) probe(ctx context.Context) error {
	_, err := f.store.Exists(ctx, anyKey)
	return reason(err)
}

// refused reports whether an answer of etcd says that waiting is of no use.
func refused(err error) bool {
	return errors.Is(err, errs.Permission) || errors.Is(err, errs.Unauthenticated) || errors.Is(err, errs.Closed)
}

// notLive is the error of who has waited in vain for the first watch. down is what a read has met meanwhile, which names the
// endpoints.
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

// gaveUp is the error of who has waited for etcd until ctx ended: a deadline that has passed says what for.
func (f *feed) gaveUp(ctx context.Context) error {
	err := retry.ContextError(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return f.because(fmt.Errorf("%w: %w", errs.Unavailable, err))
}

// because adds to an error why the watch is down, as far as that is known.
func (f *feed) because(err error) error {
	if why := f.why(); why != nil {
		return fmt.Errorf("%w: %w", err, why)
	}
	return err
}
