package lease

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/sweep"
)

// keySweep is the background deletion of a closed [Key].
type keySweep struct {
	entry  *sweep.Entry
	leases []clientv3.LeaseID // leases that the key was put on
	late   bool               // a creation may still be applied
}

// resumeSweep stops the sweep of a key that is opened again. The new Key takes over what is
// uncertain about the old one, because the new one may be closed before that is resolved, or may
// never write.
func (ks *keyState) resumeSweep(s *keySweep) {
	if s != nil {
		s.entry.Stop()
		ks.leases, ks.maybeCreatedLate, ks.maybeWritten = s.leases, s.late, true
	}
}

// freeName makes the name of a closed key available again. If the key may still exist in etcd, or
// may still be created, it starts a sweep.
func (k *Key) freeName() {
	m, ks := k.m, &k.known
	if k.closeErr != nil || ks.maybeCreatedLate {
		m.sweepKey(k)
	}
	m.mu.Lock()
	delete(m.keys, k.fullKey)
	m.mu.Unlock()
}

// sweepKey starts a sweep of the key. It must be called before the name is freed.
func (c *core) sweepKey(k *Key) {
	s := &keySweep{leases: k.known.leases, late: k.known.maybeCreatedLate}
	c.mu.Lock()
	c.sweeps[k.fullKey] = s
	c.mu.Unlock()
	remove := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.sweeps[k.fullKey] == s {
			delete(c.sweeps, k.fullKey)
		}
	}
	s.entry = c.sweeper.Add(sweep.Key{
		Name: k.name, Leases: s.leases, Late: s.late, Done: remove,
		Delete: func(ctx context.Context) error {
			if err := k.acquire(ctx, "close key"); err != nil {
				return err
			}
			defer func() { <-k.sem }()
			return k.deleteOurs(ctx)
		},
	})
	if s.entry == nil {
		remove() // the manager is closed and has revoked the leases
	}
}
