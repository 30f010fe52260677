package lease_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/lease"
)

func TestManager_OpenSessionRejectsLeaseThatArrivesTooLate(t *testing.T) {
	t.Parallel()
	tests := map[string]func(ctx context.Context, m *lease.Manager, id clientv3.LeaseID) error{
		"of its own": func(ctx context.Context, m *lease.Manager, _ clientv3.LeaseID) error {
			_, err := m.OpenSession(ctx, lease.WithTTL(2*time.Second))
			return err
		},
		"adopted": func(ctx context.Context, m *lease.Manager, id clientv3.LeaseID) error {
			_, err := m.OpenSession(ctx, lease.WithLease(id))
			return err
		},
		"shared": func(ctx context.Context, m *lease.Manager, _ clientv3.LeaseID) error {
			_, err := m.Shared(ctx)
			return err
		},
	}
	for name, get := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeEtcd()
				m := f.manager(t, lease.WithSessionTTL(2*time.Second), lease.WithTimeouts(time.Minute, time.Minute))
				info, err := m.Grant(t.Context(), 2*time.Second)
				require.NoError(t, err)
				// A response is 1.9 s old, and the deadline is after 1.8 s.
				f.setLatency(950 * time.Millisecond)
				ctx, stop := context.WithTimeout(t.Context(), time.Minute)
				defer stop()
				require.ErrorIs(t, get(ctx, m, info.ID), lease.ErrExpired)
				assert.Zero(t, m.Stats().Sessions)
				f.setLatency(0)
				time.Sleep(time.Second)
				if name == "adopted" {
					assert.Equal(t, 1, f.leaseCount(), "not ours to revoke")
				} else {
					assert.Zero(t, f.leaseCount(), "revoked in the background, and not renewed")
				}
				require.NoError(t, m.Close())
			})
		})
	}
}

func TestManager_DoesNotRenewSessionThatEndsWhileOpening(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		require.ErrorIs(t, m.StartExpiredSession(10*time.Second), lease.ErrExpired)
		time.Sleep(time.Minute)
		_, _, renewals, _ := f.counts()
		assert.Zero(t, renewals)
		assert.Zero(t, m.Stats().Sessions)
		require.NoError(t, m.Close())
	})
}

func TestManager_CloseEndsPendingCalls(t *testing.T) {
	t.Parallel()
	calls := map[string]func(ctx context.Context, m *lease.Manager) error{
		"Grant":       func(ctx context.Context, m *lease.Manager) error { _, err := m.Grant(ctx, time.Minute); return err },
		"OpenSession": func(ctx context.Context, m *lease.Manager) error { _, err := m.OpenSession(ctx); return err },
		"OpenSession, adopting": func(ctx context.Context, m *lease.Manager) error {
			_, err := m.OpenSession(ctx, lease.WithLease(7))
			return err
		},
		"Shared":        func(ctx context.Context, m *lease.Manager) error { _, err := m.Shared(ctx); return err },
		"Acquire":       func(ctx context.Context, m *lease.Manager) error { _, _, err := m.Acquire(ctx); return err },
		"KeepAliveOnce": func(ctx context.Context, m *lease.Manager) error { _, err := m.KeepAliveOnce(ctx, 7); return err },
		"Revoke":        func(ctx context.Context, m *lease.Manager) error { return m.Revoke(ctx, 7) },
		"TimeToLive":    func(ctx context.Context, m *lease.Manager) error { _, err := m.TimeToLive(ctx, 7); return err },
		"Describe":      func(ctx context.Context, m *lease.Manager) error { _, err := m.Describe(ctx, 7); return err },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeEtcd()
				m := f.manager(t)
				f.setFault(loseRequests)
				ctx, stop := context.WithTimeout(t.Context(), time.Hour)
				defer stop()
				done := make(chan error, 1)
				go func() { done <- call(ctx, m) }()
				time.Sleep(time.Second)
				start := time.Now()
				require.NoError(t, m.Close())
				require.ErrorIs(t, <-done, lease.ErrClosed)
				assert.LessOrEqual(t, time.Since(start), 5*time.Second+time.Millisecond)
			})
		})
	}
}
