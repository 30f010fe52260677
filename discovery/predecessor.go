package discovery

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

// How a lease is looked at. Etcd tells in whole seconds, rounded down, how much is left of it.
const (
	pollsPerTTL     = 30
	minPollInterval = 250 * time.Millisecond
	maxPollInterval = time.Second
	ttlResolution   = time.Second
)

// awaitPredecessor waits until the key of a predecessor that has crashed is gone with its lease. Whether it has crashed shows by the
// lease: one that is renewed ends later than was expected at the first look. Renewals cannot be watched, so the lease is
// looked at once a second at the most; that the key is gone is what a watch tells.
func (k *registrationKey) awaitPredecessor(ctx context.Context, e kv.Entry[[]byte], holder Instance) error {
	taken := &TakenError{Lease: e.Lease, Renewed: e.Lease == 0, Holder: holder}
	if taken.Renewed {
		return taken
	}
	if k.awaitedLease != e.Lease { // not again for each attempt of WithoutWaiting
		k.awaitedLease = e.Lease
		k.registry.logger.WarnContext(ctx, "instance id is taken; registration waits for the holder's lease to expire", "key", errs.Short(k.key),
			"holder", holder.Addr(), "lease", strconv.FormatInt(int64(e.Lease), 16))
	}
	var rewritten bool // by somebody on the same lease, who lives, then
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
		return reason(err)
	}
	defer sub.Close() //nolint:errcheck // always nil
	err = k.pollLease(ctx, taken, sub.Done())
	switch {
	case errors.Is(err, errLeaseGone):
		return nil
	case err != nil:
		return err
	case !errors.Is(sub.Err(), errChanged):
		return reason(sub.Err())
	case rewritten:
		taken.Renewed = true
		return taken
	}
	return nil
}

var (
	errChanged   = errors.New("it has changed")    // ends a watch that was for one change
	errLeaseGone = errors.New("the lease is gone") // and nobody could tell of the key
)

// pollLease looks at the lease until the key has changed.
func (k *registrationKey) pollLease(ctx context.Context, taken *TakenError, changed <-chan struct{}) error {
	_, bounded := ctx.Deadline()
	every := min(max(k.registry.ttl/pollsPerTTL, minPollInterval), maxPollInterval)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var end leaseExpiry
	for {
		asked := time.Now()
		info, err := k.registry.leases.TimeToLive(ctx, taken.Lease) // whoever may read its keys
		gone := errors.Is(err, lease.ErrNotFound)                   // and the key with it
		switch {
		case gone:
		case err != nil && ctx.Err() == nil && (isPermanent(err) || !bounded):
			return reason(err)
		case err == nil:
			taken.Remaining = info.Remaining
			if taken.Renewed = end.isRenewed(asked, time.Now(), info); taken.Renewed {
				return taken
			}
		}
		select {
		case <-changed:
			return nil
		case <-tick.C:
			if gone {
				return errLeaseGone
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", retry.ContextError(ctx), taken)
		}
	}
}

// leaseExpiry is when a lease ends if nobody renews it.
type leaseExpiry struct {
	latest time.Time
	term   uint64 // that of etcd's leader who has said so
}

// isRenewed takes in how much was left of the lease at least when an answer came, and reports whether it must have been renewed
// since the first. How long the answer took does not matter: it is counted as if the lease had been looked at early now, and
// late before. A new leader gives all leases their whole TTL once more, which is no sign of life: then it begins anew.
func (e *leaseExpiry) isRenewed(asked, answered time.Time, info lease.Info) bool {
	left := info.Remaining
	if left == 0 {
		return false // it may be over already
	}
	if info.RaftTerm != e.term {
		e.latest, e.term = time.Time{}, info.RaftTerm
	}
	earliest, latest := answered.Add(left), answered.Add(left+answered.Sub(asked)+ttlResolution)
	if e.latest.IsZero() || latest.Before(e.latest) {
		e.latest = latest
	}
	return earliest.After(e.latest)
}
