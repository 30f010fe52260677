package lease_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/lease"
)

// withLossHook makes f the LeaseLost hook of an observer.
func withLossHook(f func(cause error)) lease.Option {
	return scopetest.Option[lease.Option](scope.Hooks{LeaseLost: func(_ context.Context, cause error) { f(cause) }})
}

// TestManager_LossHookMayCallManager has the loss found out by whoever asks for the shared session
// next.
func TestManager_LossHookMayCallManager(t *testing.T) {
	t.Parallel()
	var m *lease.Manager
	var release func()
	reported := make(chan *lease.Session, 1)
	m = etcdtest.Must(lease.New(clientv3.NewCtxClient(t.Context()), lease.WithStub(newFakeEtcd()), withLossHook(func(error) {
		release()
		_ = m.Stats()
		next, _ := m.Shared(t.Context())
		reported <- next
	})))
	first, release, err := m.Acquire(t.Context())
	require.NoError(t, err)
	first.AdvanceWallClock(time.Minute)

	got := make(chan *lease.Session, 1)
	go func() {
		s, _ := m.Shared(t.Context())
		got <- s
	}()
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	for _, from := range []chan *lease.Session{reported, got} {
		select {
		case s := <-from:
			require.NotNil(t, s)
			assert.NotSame(t, first, s)
			require.NoError(t, s.Err())
		case <-timer.C:
			require.FailNow(t, "they wait for each other")
		}
	}
	require.ErrorIs(t, first.Err(), lease.ErrExpired)
	require.NoError(t, m.Close())
}

func TestManager_BlockedLossHookDelaysNoOtherSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		unblock := make(chan struct{})
		m := f.manager(t, withLossHook(func(error) { <-unblock }))
		lost, err := m.OpenSession(t.Context(), lease.WithTTL(6*time.Second))
		require.NoError(t, err)
		other, err := m.OpenSession(t.Context(), lease.WithTTL(6*time.Second))
		require.NoError(t, err)
		f.expire(lost.ID())
		<-lost.Context().Done()
		time.Sleep(time.Minute)
		require.NoError(t, other.Err())
		close(unblock)
	})
}

func TestManager_CloseBoundsWaitForLossHook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		var m *lease.Manager
		closed := make(chan error, 1)
		// A program that gives up does this.
		m = f.manager(t, withLossHook(func(error) { closed <- m.Close() }))
		s, err := m.OpenSession(t.Context())
		require.NoError(t, err)
		f.expire(s.ID())
		<-s.Context().Done()
		start := time.Now()
		require.ErrorContains(t, <-closed, "a hook of the observer has not returned")
		assert.LessOrEqual(t, time.Since(start), 5*time.Second)
	})
}
