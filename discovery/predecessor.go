package discovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

// Polling of the predecessor's lease. etcd reports whole seconds, rounded down.
const (
	pollsPerTTL     = 30
	minPollInterval = 250 * time.Millisecond
	maxPollInterval = time.Second
	ttlResolution   = time.Second
)

// awaitPredecessor waits until the key of a crashed predecessor expires with its lease. A
// predecessor is alive if its lease is renewed, that is, if the lease turns out to end later than
// first computed. Renewals cannot be watched, so the lease is polled, at most four times a second;
// a watch reports the deletion of the key.
func (k *registrationKey) awaitPredecessor(ctx context.Context, e kv.Entry[[]byte], holder Instance) error {
	taken := &TakenError{Lease: e.Lease, Renewed: e.Lease == 0, Holder: holder}
	if taken.Renewed {
		return taken
	}
	if k.awaitedLease != e.Lease { // once, not for each attempt of WithoutWaiting
		k.awaitedLease = e.Lease
		k.registry.logger.WarnContext(ctx, "instance id is taken; registration waits for the holder's lease to expire", "key", errs.Short(k.key),
			"holder", holder.Addr(), "lease", wire.FormatLeaseID(e.Lease))
	}
	var rewritten bool // by a live holder of the same lease
	sub, err := k.registry.watcher.Subscribe(watch.Key(k.key), func(_ context.Context, b watch.Batch) error {
		for _, ev := range b.Events {
			if ev.Type == watch.Put && ev.ModRevision == e.ModRevision {
				return nil
			}
			rewritten = ev.Type == watch.Put && ev.Lease == e.Lease
		}
		return errChanged
	}, watch.WithSnapshot())
	if err != nil {
		return errs.Cause(err)
	}
	defer sub.Close() //nolint:errcheck // always nil
	err = k.pollLease(ctx, taken, sub.Done())
	switch {
	case errors.Is(err, errLeaseGone):
		return nil
	case err != nil:
		return err
	case !errors.Is(sub.Err(), errChanged):
		return errs.Cause(sub.Err())
	case rewritten:
		taken.Renewed = true
		return taken
	}
	return nil
}

var (
	errChanged   = errors.New("it has changed")    // ends a watch after the first change
	errLeaseGone = errors.New("the lease is gone") // the watch may be down
)

// pollLease polls the lease until the key has changed.
func (k *registrationKey) pollLease(ctx context.Context, taken *TakenError, changed <-chan struct{}) error {
	_, hasDeadline := ctx.Deadline()
	every := min(max(k.registry.ttl/pollsPerTTL, minPollInterval), maxPollInterval)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var end leaseExpiry
	for {
		sentAt := time.Now()
		// Needs no permission for the lease's keys.
		info, err := k.registry.leases.TimeToLive(ctx, taken.Lease)
		expired := errors.Is(err, lease.ErrNotFound) // and the key with it
		switch {
		case expired:
		case err != nil && ctx.Err() == nil && (isPermanent(err) || !hasDeadline):
			return errs.Cause(err)
		case err == nil:
			taken.Remaining = info.Remaining
			if taken.Renewed = end.isRenewed(sentAt, time.Now(), info); taken.Renewed {
				return taken
			}
		}
		select {
		case <-changed:
			return nil
		case <-tick.C:
			if expired {
				return errLeaseGone
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", retry.ContextError(ctx), taken)
		}
	}
}

// leaseExpiry is when a lease expires unless it is renewed.
type leaseExpiry struct {
	latest time.Time
	term   uint64 // Raft term of the answer
}

// isRenewed reports whether the lease must have been renewed since the first call, given its
// remaining time between asked and answered. Slow answers cannot cause a false positive: the
// earliest expiry now is compared with the latest possible one before. A new leader restarts the
// TTL of all leases, so a new term starts over.
func (e *leaseExpiry) isRenewed(sentAt, receivedAt time.Time, info lease.Info) bool {
	left := info.Remaining
	if left == 0 {
		return false // possibly expired
	}
	if info.RaftTerm != e.term {
		e.latest, e.term = time.Time{}, info.RaftTerm
	}
	earliest, latest := receivedAt.Add(left), receivedAt.Add(left+receivedAt.Sub(sentAt)+ttlResolution)
	if e.latest.IsZero() || latest.Before(e.latest) {
		e.latest = latest
	}
	return earliest.After(e.latest)
}
