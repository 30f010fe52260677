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
	// minSharedTTL is the shortest TTL whose leases are shared. The leases of shorter ones are gone soon.
	minSharedTTL = 2 * time.Minute
	// sharedTTLDivisor says how much longer than its TTL a shared lease lives, and for how long writes get it: a twentieth.
	sharedTTLDivisor = 20
	// maxLeaseWrites bounds the writes on a lease: when it ends, etcd deletes its keys in a single transaction.
	maxLeaseWrites = 1000
	// revokeTimeout bounds the revocation of a lease that nothing came to be attached to.
	revokeTimeout = 500 * time.Millisecond
)

// ttlLease is a lease of WithTTL.
type ttlLease struct {
	id     clientv3.LeaseID
	shared bool

	// Guarded by the pool, and used for a shared lease alone.
	until  time.Time // no write begins on the lease after this
	writes int
}

// ttlPool shares the leases of WithTTL among writes with the same TTL. Etcd keeps a lease until it ends, even after its
// key was overwritten, so that a lease for each write would leave as many of them as there are writes within a TTL.
type ttlPool struct {
	mu      sync.Mutex
	entries map[time.Duration]*ttlEntry
}

// ttlEntry is the present lease of a TTL.
type ttlEntry struct {
	granting chan struct{} // full while a caller asks for a lease; the others wait for it
	lease    *ttlLease     // nil if there is none; guarded by the pool
}

// ttlLease returns a lease for a number of writes that end after ttl, and grants one if there is none.
func (c *core) ttlLease(ctx context.Context, op, key string, ttl time.Duration, writes int) (*ttlLease, error) {
	if ttl < minSharedTTL {
		id, _, err := c.grant(ctx, op, key, ttl)
		return &ttlLease{id: id}, err
	}
	ttl = time.Duration(wire.Seconds(ttl)) * time.Second
	e := c.ttls.entry(ttl)
	if l := c.ttls.use(e, writes); l != nil {
		return l, nil
	}
	if err := c.await(ctx, e.granting, "a lease that another call asks for"); err != nil {
		return nil, fail(op, key, err)
	}
	defer func() { <-e.granting }()
	if l := c.ttls.use(e, writes); l != nil {
		return l, nil // the other call has got it
	}
	sentAt := time.Now()
	window := min(ttl/sharedTTLDivisor, clientv3.MaxLeaseTTL*time.Second-ttl).Truncate(time.Second)
	id, _, err := c.grant(ctx, op, key, ttl+window)
	if err != nil {
		return nil, err
	}
	l := &ttlLease{id: id, shared: true, until: sentAt.Add(window), writes: writes}
	c.ttls.set(e, l)
	return l, nil
}

// entry returns the entry of a TTL, and drops those whose time is over when it makes one.
func (p *ttlPool) entry(ttl time.Duration) *ttlEntry {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entries[ttl]; e != nil {
		return e
	}
	now := time.Now()
	for other, e := range p.entries {
		if e.lease != nil && now.After(e.lease.until) && len(e.granting) == 0 {
			delete(p.entries, other) // a caller that still holds it grants a lease that is not shared
		}
	}
	e := &ttlEntry{granting: make(chan struct{}, 1)}
	if p.entries == nil {
		p.entries = make(map[time.Duration]*ttlEntry)
	}
	p.entries[ttl] = e
	return e
}

// use returns the lease of an entry for a number of writes, nil if a new one is needed.
func (p *ttlPool) use(e *ttlEntry, writes int) *ttlLease {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := e.lease
	if l == nil || !time.Now().Before(l.until) || l.writes+writes > maxLeaseWrites {
		return nil
	}
	l.writes += writes
	return l
}

// set makes l the lease of an entry.
func (p *ttlPool) set(e *ttlEntry, l *ttlLease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.lease = l
}

// drop ends the use of a lease that was found to be gone.
func (p *ttlPool) drop(l *ttlLease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.until = time.Time{}
}

// release gives up the leases of writes that were refused with err, and reports whether the same writes on new leases can
// do better: those on a shared lease that somebody has revoked.
func (c *core) release(ctx context.Context, err error, leases ...*ttlLease) (again bool) {
	if err == nil || errors.Is(err, ErrUnknownOutcome) {
		return false // revoking could delete what was written
	}
	for _, l := range leases {
		switch {
		case !l.shared:
			c.revoke(ctx, l.id)
		case errors.Is(err, errs.LeaseNotFound):
			c.ttls.drop(l)
			again = true
		}
	}
	return again
}

// revoke revokes a lease that nothing came to be attached to, also when ctx has ended. If that fails, the lease expires.
func (c *core) revoke(ctx context.Context, id clientv3.LeaseID) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer stop()
	if _, err := c.cli.Revoke(ctx, id); err != nil {
		c.log.DebugContext(ctx, "lease of a refused put was not revoked", "lease", int64(id), "error", err)
	}
}

// callLeases is the leases that one call has got for its TTLs. It keeps them while the call repeats its write.
type callLeases struct {
	*core

	op, key string
	byTTL   map[time.Duration]*ttlLease
}

// get returns the lease for a number of writes with a TTL.
func (l *callLeases) get(ctx context.Context, ttl time.Duration, writes int) (clientv3.LeaseID, error) {
	if one := l.byTTL[ttl]; one != nil {
		return one.id, nil
	}
	one, err := l.ttlLease(ctx, l.op, l.key, ttl, writes)
	if err != nil {
		return 0, err
	}
	if l.byTTL == nil {
		l.byTTL = make(map[time.Duration]*ttlLease)
	}
	l.byTTL[ttl] = one
	return one.id, nil
}

// replace drops shared leases that somebody has revoked, as err says, and reports whether the write is to be repeated.
func (l *callLeases) replace(err error) (again bool) {
	if !errs.Unchanged(err) || !errors.Is(err, errs.LeaseNotFound) {
		return false
	}
	for ttl, one := range l.byTTL {
		if one.shared {
			l.ttls.drop(one)
			delete(l.byTTL, ttl)
			again = true
		}
	}
	return again
}

// finish revokes the leases that nothing came to be attached to. err is that of the call; used is the TTLs of its last write.
func (l *callLeases) finish(ctx context.Context, err error, used map[time.Duration]int) {
	for ttl, one := range l.byTTL {
		if (err == nil || errors.Is(err, ErrUnknownOutcome)) && used[ttl] > 0 || one.shared {
			continue
		}
		l.revoke(ctx, one.id)
	}
}

// await takes a token that other callers hold while they ask etcd for something.
func (c *core) await(ctx context.Context, token chan struct{}, what string) error {
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

// grant asks for a lease. Where its ID can be chosen here, repeating the request cannot make two; else an answer that is
// lost is the end of it.
func (c *core) grant(ctx context.Context, op, key string, ttl time.Duration) (clientv3.LeaseID, time.Duration, error) {
	if c.cli.Lease == nil {
		return 0, 0, fail(op, key, fmt.Errorf("%w: the client has no Lease", errs.Invalid))
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
