package kv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

const (
	// minSharedTTL is the shortest TTL whose leases are shared. Shorter leases expire before many
	// of them accumulate.
	minSharedTTL = 2 * time.Minute
	// sharedTTLDivisor determines the window of a shared lease: a twentieth of the TTL. The lease
	// is granted for the TTL plus the window, and new writes use it only within the window. So each
	// of its keys lives for at least the TTL.
	sharedTTLDivisor = 20
	// maxLeaseWrites is the maximum number of writes on a lease. etcd deletes all keys of a lease
	// in a single transaction.
	maxLeaseWrites = 1000
	// revokeTimeout bounds the revocation of a lease to which no key was attached.
	revokeTimeout = 500 * time.Millisecond
)

// ttlLease is a lease of WithTTL.
type ttlLease struct {
	id     clientv3.LeaseID
	shared bool

	// usableUntil and writes are guarded by the mutex of the pool. Only shared leases use them.
	usableUntil time.Time // no write starts on the lease after this
	writes      int
}

// ttlPool shares the leases of WithTTL among writes with the same TTL. etcd keeps a lease until it
// ends, even if its key is overwritten. With one lease per write, there would be as many leases as
// writes within a TTL.
type ttlPool struct {
	mu      sync.Mutex
	entries map[time.Duration]*ttlEntry
}

// ttlEntry holds the current lease of a TTL.
type ttlEntry struct {
	granting chan struct{} // full while a caller requests a lease; others wait for it
	lease    *ttlLease     // nil if there is none; guarded by the mutex of the pool
}

// leaseForTTL returns a lease for the given number of writes, whose keys end after ttl. It grants
// one if there is none.
func (c *core) leaseForTTL(ctx context.Context, op, key string, ttl time.Duration, writes int) (*ttlLease, error) {
	if ttl < minSharedTTL {
		id, _, err := c.grant(ctx, op, key, ttl)
		return &ttlLease{id: id}, err
	}
	ttl = time.Duration(wire.Seconds(ttl)) * time.Second
	e := c.ttls.entry(ttl)
	if l := c.ttls.reserve(e, writes); l != nil {
		return l, nil
	}
	if err := c.acquireGrant(ctx, e.granting, "a lease that another call requests"); err != nil {
		return nil, opError(op, key, err)
	}
	defer func() { <-e.granting }()
	if l := c.ttls.reserve(e, writes); l != nil {
		return l, nil // another call has granted it
	}
	sentAt := time.Now()
	window := min(ttl/sharedTTLDivisor, clientv3.MaxLeaseTTL*time.Second-ttl).Truncate(time.Second)
	id, _, err := c.grant(ctx, op, key, ttl+window)
	if err != nil {
		return nil, err
	}
	l := &ttlLease{id: id, shared: true, usableUntil: sentAt.Add(window), writes: writes}
	c.ttls.set(e, l)
	return l, nil
}

// entry returns the entry of a TTL. If it creates one, it removes the expired entries.
func (p *ttlPool) entry(ttl time.Duration) *ttlEntry {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entries[ttl]; e != nil {
		return e
	}
	now := time.Now()
	for other, e := range p.entries {
		if e.lease != nil && now.After(e.lease.usableUntil) && len(e.granting) == 0 {
			delete(p.entries, other) // if a caller still uses it, other callers do not find its lease
		}
	}
	e := &ttlEntry{granting: make(chan struct{}, 1)}
	if p.entries == nil {
		p.entries = make(map[time.Duration]*ttlEntry)
	}
	p.entries[ttl] = e
	return e
}

// reserve returns the lease of an entry for a number of writes, or nil if a new one is needed.
func (p *ttlPool) reserve(e *ttlEntry, writes int) *ttlLease {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := e.lease
	if l == nil || !time.Now().Before(l.usableUntil) || l.writes+writes > maxLeaseWrites {
		return nil
	}
	l.writes += writes
	return l
}

// set sets the lease of an entry.
func (p *ttlPool) set(e *ttlEntry, l *ttlLease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.lease = l
}

// invalidate stops the use of a lease that does not exist any more.
func (p *ttlPool) invalidate(l *ttlLease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.usableUntil = time.Time{}
}

// releaseLeases releases the leases of writes that failed with err. It revokes those that are not
// shared, unless the outcome is unknown. If err means that a lease does not exist, it invalidates
// the shared ones and reports that the writes can be repeated with new leases.
func (c *core) releaseLeases(ctx context.Context, err error, leases ...*ttlLease) (repeatable bool) {
	if err == nil || errors.Is(err, ErrUnknownOutcome) {
		return false // revoking could delete what was written
	}
	for _, l := range leases {
		switch {
		case !l.shared:
			c.revoke(ctx, l.id)
		case errors.Is(err, errs.LeaseNotFound):
			c.ttls.invalidate(l)
			repeatable = true
		}
	}
	return repeatable
}

// revoke revokes a lease to which no key was attached, even if ctx has ended. If that fails, the
// lease expires.
func (c *core) revoke(ctx context.Context, id clientv3.LeaseID) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer stop()
	if _, err := c.cli.Revoke(ctx, id); err != nil {
		c.log.DebugContext(ctx, "lease of a refused put was not revoked", "lease", int64(id), "error", err)
	}
}

// callLeases holds the leases of one call, by TTL. The call reuses them when it repeats its write.
type callLeases struct {
	*core

	op, key string
	byTTL   map[time.Duration]*ttlLease
}

// lease returns the lease for a number of writes with a TTL.
func (l *callLeases) lease(ctx context.Context, ttl time.Duration, writes int) (clientv3.LeaseID, error) {
	if granted := l.byTTL[ttl]; granted != nil {
		return granted.id, nil
	}
	granted, err := l.leaseForTTL(ctx, l.op, l.key, ttl, writes)
	if err != nil {
		return 0, err
	}
	if l.byTTL == nil {
		l.byTTL = make(map[time.Duration]*ttlLease)
	}
	l.byTTL[ttl] = granted
	return granted.id, nil
}

// dropMissing drops all shared leases if err means that a lease does not exist, because err does
// not say which one. It reports whether the write should be repeated.
func (l *callLeases) dropMissing(err error) (repeatable bool) {
	if !errs.NotApplied(err) || !errors.Is(err, errs.LeaseNotFound) {
		return false
	}
	for ttl, granted := range l.byTTL {
		if granted.shared {
			l.ttls.invalidate(granted)
			delete(l.byTTL, ttl)
			repeatable = true
		}
	}
	return repeatable
}

// revokeUnused revokes the leases to which no key was attached. err is the error of the call; used
// holds the TTLs of its last write.
func (l *callLeases) revokeUnused(ctx context.Context, err error, used map[time.Duration]int) {
	for ttl, granted := range l.byTTL {
		if (err == nil || errors.Is(err, ErrUnknownOutcome)) && used[ttl] > 0 || granted.shared {
			continue
		}
		l.revoke(ctx, granted.id)
	}
}

// acquireGrant puts a token into a channel of capacity 1, which is full while another caller
// requests a lease. what describes the awaited lease in the error if ctx ends first.
func (c *core) acquireGrant(ctx context.Context, token chan struct{}, what string) error {
	select {
	case token <- struct{}{}:
		if ctx.Err() == nil {
			return nil
		}
		<-token
	case <-ctx.Done():
	}
	return c.waitError(ctx, what, true)
}

// grant grants a lease. If the lease ID can be chosen by the client, the request is repeated
// without the risk of two leases. Otherwise it fails if the response is lost.
func (c *core) grant(ctx context.Context, op, key string, ttl time.Duration) (clientv3.LeaseID, time.Duration, error) {
	if c.cli.Lease == nil {
		return 0, 0, opError(op, key, fmt.Errorf("%w: the client has no Lease", errs.Invalid))
	}
	type lease struct {
		id  clientv3.LeaseID
		ttl time.Duration
	}
	want := wire.NewLeaseID()
	call := retry.Call{Pkg: "kv", Op: op, Key: key, Read: wire.GrantRepeats(c.cli)}
	got, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, _ bool) (l lease, err error) {
		l.id, l.ttl, err = wire.Grant(ctx, c.cli, want, ttl)
		return l, err
	})
	return got.id, got.ttl, err
}
