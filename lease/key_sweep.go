package lease

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/sweep"
)

// keySweep is the sweep of a closed [Key].
type keySweep struct {
	entry  *sweep.Entry
	leases []clientv3.LeaseID // that the key was put on
	late   bool               // a creation may still be applied
}

// resumeSweep ends the sweep of a key that was opened again. Its uncertainty goes over to the new Key, which may be closed
// before it is over, or may not get as far as to write.
func (ks *keyState) resumeSweep(s *keySweep) {
	if s != nil {
		s.entry.Stop()
		ks.leases, ks.maybeCreatedLate, ks.maybeWritten = s.leases, s.late, true
	}
}

// freeName frees the name of a closed key, and has the key swept if it may still be, or come to be, in etcd.
func (k *Key) freeName() {
	m, ks := k.m, &k.known
	if k.closeErr != nil || ks.maybeCreatedLate {
		m.sweepKey(k, ks.leases, ks.maybeCreatedLate)
	}
	m.mu.Lock()
	delete(m.keys, k.fullKey)
	m.mu.Unlock()
}

// sweepKey has a key swept whose name is not free yet.
func (c *core) sweepKey(k *Key, leases []clientv3.LeaseID, late bool) {
	s := &keySweep{leases: leases, late: late}
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
		Name: k.name, Leases: leases, Late: late, Done: remove,
		Delete: func(ctx context.Context) error { return k.deleteOnLeases(ctx, leases...) },
	})
	if s.entry == nil {
		remove() // the manager is closed, and has revoked the leases
	}
}
