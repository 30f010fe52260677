package lease_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/lease"
)

// TestManager_CloseDuringOpenAndAcquire closes managers at every moment of what others do with
// them.
func TestManager_CloseDuringOpenAndAcquire(t *testing.T) {
	t.Parallel()
	for step := range 40 {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeEtcd()
			f.setLatency(5 * time.Millisecond)
			m := f.manager(t, lease.WithSessionTTL(2*time.Second))
			var wg sync.WaitGroup
			for range 6 {
				wg.Go(func() {
					for {
						// It is left to the manager: two that close one session wait for each other
						// in a sync.Once, which stops the clock of a bubble.
						_, _ = m.OpenSession(t.Context(), lease.WithTTL(2*time.Second))
						_, release, err := m.Acquire(t.Context())
						if err != nil {
							assert.ErrorIs(t, err, lease.ErrClosed)
							return
						}
						release()
					}
				})
			}
			// Every other time when answers come in.
			time.Sleep(time.Duration(step) * 2500 * time.Microsecond)
			require.NoError(t, m.Close())
			wg.Wait()
			assert.Zero(t, f.leaseCount(), "after %d steps", step)
			assert.Zero(t, m.Stats().Sessions)
		})
	}
}

// TestManager_CloseDuringOpenKey does the same with keys in etcd.
func TestManager_CloseDuringOpenKey(t *testing.T) {
	t.Parallel()
	direct, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	for round := range 10 {
		m := etcdtest.Must(lease.New(etcdtest.Client(t), lease.WithNamespace(dir)))
		_, err := m.Shared(t.Context())
		require.NoError(t, err)
		var wg sync.WaitGroup
		opened := make(chan struct{}, 1000)
		for i := range 8 {
			wg.Go(func() {
				for n := 0; ; n++ {
					k, err := m.OpenKey(t.Context(), strconv.Itoa(i)+"/"+strconv.Itoa(n), []byte("v"))
					if err == nil {
						opened <- struct{}{}
						err = k.Update(t.Context(), []byte("w"))
					}
					if err != nil {
						assert.ErrorIs(t, err, lease.ErrClosed)
						return
					}
				}
			})
		}
		for range round * 7 {
			<-opened
		}
		require.NoError(t, m.Close())
		wg.Wait()
		r, err := direct.Get(t.Context(), dir, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		require.NoError(t, err)
		assert.Empty(t, r.Kvs)
		assert.Zero(t, m.Stats().Keys)
	}
}

func TestManager_CloseIsBoundedWithManyKeysDuringOutage(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	m := etcdtest.Must(lease.New(srv.Client(t, parttest.Harden), lease.WithSessionTTL(time.Minute)))
	var last *lease.Key
	for i := range 40 {
		k, err := m.OpenKey(t.Context(), strconv.Itoa(i), nil)
		require.NoError(t, err)
		last = k
	}
	srv.Pause()
	start := time.Now()
	require.ErrorIs(t, m.Close(), lease.ErrUnavailable)
	assert.Less(t, time.Since(start), 8*time.Second, "5 s for all of it, and not for each")
	require.ErrorIs(t, context.Cause(last.Context()), lease.ErrClosed)
	srv.Resume()
}

func TestManager_CloseReportsNumberOfRemainingKeys(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	m := etcdtest.Must(lease.New(srv.Client(t)))
	closed, err := m.OpenKey(t.Context(), "closed", nil)
	require.NoError(t, err)
	_, err = m.OpenKey(t.Context(), "open", nil)
	require.NoError(t, err)
	srv.Pause()
	require.Error(t, closed.Close())
	err = m.Close()
	require.ErrorContains(t, err, "keys left to expire with their leases: 2: ", "the manager could not delete the other one")
	assert.Equal(t, err, m.Close())
	srv.Resume()
}

func TestManager_OpenKeyWaitsForKeyBeingClosed(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	net, m := newFakeLateKV(t, dir)
	k, err := m.OpenKey(t.Context(), "k", []byte("first"))
	require.NoError(t, err)
	net.losing.Store(true)
	done := make(chan error, 1)
	go func() { done <- k.Close() }()
	<-k.Context().Done()
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	_, err = m.OpenKey(ctx, "k", []byte("second"))
	require.ErrorIs(t, err, context.DeadlineExceeded, "and not ErrExists")
	net.losing.Store(false)
	k, err = m.OpenKey(t.Context(), "k", []byte("second"))
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.NoError(t, k.Close())
}
