package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/sweep"
)

// Package lock leaves its keys to the sweeper of the manager whose leases they are on.
var _ = sweep.Provide(func(manager any) *sweep.Sweeper {
	if m, ok := manager.(*Manager); ok {
		return m.sweeper
	}
	return nil
})

// newSweeper returns the sweeper of what is left on the leases of c.
func (c *core) newSweeper() *sweep.Sweeper {
	return sweep.New(c.life, sweep.Config{
		Renewed: func(id clientv3.LeaseID) bool { return c.renewer.find(id) != nil },
		Gone: func(ctx context.Context, id clientv3.LeaseID) (bool, error) {
			_, _, err := c.look(ctx, "sweep", id, false)
			if isNotFound(err) {
				return true, nil
			}
			return false, err
		},
		Retire: c.retire,
		Logger: c.log,
	})
}

// retire has a shared lease take no new keys, and end with the last of those that use it.
func (c *core) retire(id clientv3.LeaseID) {
	if s := c.renewer.find(id); s != nil && s.pool != nil {
		s.pool.retire(s)
	}
}

// endSweeper ends the sweeper, and revokes the leases that may still hold one of its keys. The error says how many keys
// are left to expire.
func (c *core) endSweeper(ctx context.Context) error {
	left := c.sweeper.Close()
	var leases []clientv3.LeaseID
	for _, k := range left {
		leases = append(leases, k.Leases...)
	}
	slices.Sort(leases)
	err := together(slices.Compact(leases), func(id clientv3.LeaseID) error {
		if err := c.revoke(ctx, id); !errors.Is(err, ErrNotFound) {
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keys left to expire with their leases: %d: %w", len(left), err)
	}
	return nil
}

// keySweep is the sweep of a closed [Key].
type keySweep struct {
	entry  *sweep.Entry
	leases []clientv3.LeaseID // that the key was put on
	late   bool               // a creation may still be applied
}

// resumeSweep ends the sweep of a key that was opened again. Its uncertainty goes over to the new Key, which may be closed
// before it is over, or may not get as far as to write.
func (h *holding) resumeSweep(s *keySweep) {
	if s != nil {
		s.entry.Stop()
		h.leases, h.late, h.written = s.leases, s.late, true
	}
}

// retire frees the name of a closed key, and has the key swept if it may still be, or come to be, in etcd.
func (k *Key) retire() {
	m, h := k.m, &k.held
	if k.closeErr != nil || h.late {
		m.sweepKey(k, h.leases, h.late)
	}
	m.mu.Lock()
	delete(m.keys, k.abs)
	m.mu.Unlock()
}

// sweepKey has a key swept whose name is not free yet.
func (c *core) sweepKey(k *Key, leases []clientv3.LeaseID, late bool) {
	s := &keySweep{leases: leases, late: late}
	c.mu.Lock()
	c.sweeps[k.abs] = s
	c.mu.Unlock()
	ended := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.sweeps[k.abs] == s {
			delete(c.sweeps, k.abs)
		}
	}
	s.entry = c.sweeper.Add(sweep.Key{
		Name: k.name, Leases: leases, Late: late, Done: ended,
		Delete: func(ctx context.Context) error { return k.deleteOn(ctx, leases...) },
	})
	if s.entry == nil {
		ended() // the manager is closed, and has revoked the leases
	}
}
