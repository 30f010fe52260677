package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/sweep"
)

// Package lock passes keys that it could not delete, or that a late request may still create, to
// the sweeper of the manager that owns their leases.
var _ = sweep.Provide(func(manager any) *sweep.Sweeper {
	if m, ok := manager.(*Manager); ok {
		return m.sweeper
	}
	return nil
})

// newSweeper returns the sweeper for keys on the leases of c that could not be deleted or may still
// be created.
func (c *core) newSweeper() *sweep.Sweeper {
	return sweep.New(c.ctx, sweep.Config{
		Renewed: func(id clientv3.LeaseID) bool { return c.renewer.find(id) != nil },
		Gone: func(ctx context.Context, id clientv3.LeaseID) (bool, error) {
			_, _, err := c.queryLease(ctx, "sweep", id, false)
			if isNotFound(err) {
				return true, nil
			}
			return false, err
		},
		Retire: c.retireLease,
		Logger: c.log,
	})
}

// retireLease stops the session of a pooled lease from taking new users of [Manager.Acquire]. The
// session is closed when its last user has released it, unless [Manager.Shared] has returned it.
func (c *core) retireLease(id clientv3.LeaseID) {
	if s := c.renewer.find(id); s != nil && s.pool != nil {
		s.pool.retire(s)
	}
}

// closeSweeper closes the sweeper and revokes the leases that may still hold one of its keys. If
// that fails, the error says how many keys are left to expire.
func (c *core) closeSweeper(ctx context.Context) error {
	remaining := c.sweeper.Close()
	var leases []clientv3.LeaseID
	for _, k := range remaining {
		leases = append(leases, k.Leases...)
	}
	slices.Sort(leases)
	err := forEachParallel(slices.Compact(leases), func(id clientv3.LeaseID) error {
		if err := c.revoke(ctx, id); !errors.Is(err, ErrNotFound) {
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keys left to expire with their leases: %d: %w", len(remaining), err)
	}
	return nil
}
