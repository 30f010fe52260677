package lease_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/lease"
)

func TestManager_SharedReturnsOneSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		f.setLatency(10 * time.Millisecond)
		m := f.manager(t)
		var wg sync.WaitGroup
		var mu sync.Mutex
		seen := map[*lease.Session]int{}
		for i := range 1000 {
			wg.Go(func() {
				from := m
				if i%2 == 0 {
					from = m.Namespace("below")
				}
				s, err := from.Shared(t.Context())
				assert.NoError(t, err)
				mu.Lock()
				defer mu.Unlock()
				seen[s]++
			})
		}
		wg.Wait()
		assert.Len(t, seen, 1)
		grants, _, _, _ := f.counts()
		assert.Equal(t, 1, grants)
		s, err := m.Shared(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 15*time.Second, s.TTL(), "the default")
		require.ErrorIs(t, s.Close(), lease.ErrInvalid, "it is not the caller's to close")
		s.Orphan()
		require.NoError(t, s.Err())
		require.NoError(t, m.Namespace("below").Close())
		require.NoError(t, s.Err())
		require.NoError(t, m.Close())
		require.ErrorIs(t, s.Err(), lease.ErrClosed)
		assert.Zero(t, f.leaseCount())
	})
}

func TestManager_SharedReplacesLostSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t, lease.WithSessionTTL(10*time.Second))
		first, err := m.Shared(t.Context())
		require.NoError(t, err)
		f.setFault(loseBoth)
		<-first.Context().Done()
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, err = m.Shared(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, lease.ErrUnavailable)
		f.setFault(noFault)
		_, err = m.Shared(t.Context())
		require.ErrorIs(t, err, context.DeadlineExceeded, "the grant that is under way was lost, and has its time")
		second, err := m.Shared(t.Context())
		require.NoError(t, err)
		assert.NotEqual(t, first.ID(), second.ID())
		require.NoError(t, second.Err())
		require.Error(t, first.Err())
	})
}

func TestManager_SharedSurvivesCancellationOfOneCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		f.setLatency(500 * time.Millisecond)
		m := f.manager(t)
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(300*time.Millisecond, stop)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := m.Shared(ctx)
			assert.ErrorIs(t, err, context.Canceled)
		})
		time.Sleep(100 * time.Millisecond)
		s, err := m.Shared(t.Context())
		require.NoError(t, err)
		require.NoError(t, s.Err())
		wg.Wait()
		grants, _, _, _ := f.counts()
		assert.Equal(t, 1, grants)
	})
}

func TestManager_AcquirePutsAtMost256UsersOnOneLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		seen := map[*lease.Session]int{}
		var releases []func()
		for range 600 {
			s, release, err := m.Acquire(t.Context())
			require.NoError(t, err)
			seen[s]++
			releases = append(releases, release)
		}
		assert.Len(t, seen, 3)
		for _, n := range seen {
			assert.LessOrEqual(t, n, 256)
		}
		for _, release := range releases {
			release()
			release()
		}
		for range 256 {
			s, _, err := m.Acquire(t.Context())
			require.NoError(t, err)
			assert.Contains(t, seen, s)
		}
		grants, _, _, _ := f.counts()
		assert.Equal(t, 3, grants)
		time.Sleep(time.Minute)
		_, _, _, streams := f.counts()
		assert.Equal(t, 1, streams, "all leases are on one stream")
	})
}

func TestManager_SharedSessionsAreOnePerTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t, lease.WithSessionTTL(20*time.Second))
		byTTL := map[time.Duration]*lease.Session{}
		for _, tt := range []struct {
			opts []lease.SessionOption
			ttl  time.Duration
		}{
			{nil, 20 * time.Second},
			{[]lease.SessionOption{lease.WithTTL(20 * time.Second)}, 20 * time.Second},
			{[]lease.SessionOption{lease.WithTTL(5 * time.Second)}, 5 * time.Second},
			// The server counts in seconds.
			{[]lease.SessionOption{lease.WithTTL(4500 * time.Millisecond)}, 5 * time.Second},
			{[]lease.SessionOption{lease.WithTTL(time.Minute)}, time.Minute},
		} {
			for range 2 {
				shared, err := m.Shared(t.Context(), tt.opts...)
				require.NoError(t, err)
				acquired, release, err := m.Namespace("below").Acquire(t.Context(), tt.opts...)
				require.NoError(t, err)
				assert.Same(t, shared, acquired)
				assert.Equal(t, tt.ttl, shared.TTL())
				if byTTL[tt.ttl] != nil {
					assert.Same(t, byTTL[tt.ttl], shared)
				}
				byTTL[tt.ttl] = shared
				release()
			}
		}
		grants, _, _, _ := f.counts()
		assert.Equal(t, 3, grants)

		_, err := m.Shared(t.Context(), lease.WithLease(1))
		require.ErrorIs(t, err, lease.ErrInvalid)
		_, _, err = m.Acquire(t.Context(), lease.WithTTL(time.Millisecond))
		require.ErrorIs(t, err, lease.ErrInvalid)
	})
}

func TestManager_AcquireWaitsForOneAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		f.setFault(loseBoth)
		m := f.manager(t, lease.WithTimeouts(0, 2*time.Second))
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				ctx, stop := context.WithTimeout(t.Context(), time.Duration(i+1)*100*time.Millisecond)
				defer stop()
				_, _, err := m.Acquire(ctx, lease.WithTTL(time.Minute))
				assert.ErrorIs(t, err, lease.ErrUnavailable)
				assert.Equal(t, min(time.Duration(i+1)*100*time.Millisecond, 2*time.Second), time.Since(start),
					"until its own context ends, or the one attempt does")
			})
		}
		wg.Wait()
	})
}

func TestManager_AcquiredSessionEndsAMinuteAfterLastRelease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		first, release, err := m.Acquire(t.Context())
		require.NoError(t, err)
		time.Sleep(time.Hour)
		release()
		time.Sleep(59 * time.Second)
		again, releaseAgain, err := m.Acquire(t.Context())
		require.NoError(t, err)
		require.Same(t, first, again)
		time.Sleep(time.Hour)
		require.NoError(t, first.Err(), "it is in use")
		releaseAgain()
		time.Sleep(59 * time.Second)
		require.NoError(t, first.Err())
		time.Sleep(2 * time.Second)
		require.ErrorIs(t, first.Err(), lease.ErrClosed)
		assert.Zero(t, f.leaseCount(), "its lease is revoked")
		_, revokes, renewals, _ := f.counts()
		assert.Equal(t, 1, revokes)
		time.Sleep(time.Hour)
		_, _, after, _ := f.counts()
		assert.Equal(t, renewals, after, "nothing is renewed for nobody")

		shared, err := m.Shared(t.Context())
		require.NoError(t, err)
		_, release, err = m.Acquire(t.Context())
		require.NoError(t, err)
		release()
		time.Sleep(time.Hour)
		require.NoError(t, shared.Err(), "callers of Shared are not counted")
	})
}

func TestManager_ClosesSessionNobodyWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		f.setLatency(time.Second)
		m := f.manager(t)
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, _, err := m.Acquire(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(2 * time.Second)
		assert.Equal(t, 1, f.leaseCount())
		time.Sleep(2 * time.Minute)
		assert.Zero(t, f.leaseCount())
	})
}

func TestManager_OpensAndClosesSessionsConcurrently(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		f.setLatency(time.Millisecond)
		m := f.manager(t)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				for n := range 50 {
					s, err := m.OpenSession(t.Context(), lease.WithTTL(3*time.Second))
					if !assert.NoError(t, err) {
						return
					}
					time.Sleep(time.Duration((i*n)%5) * 700 * time.Millisecond)
					assert.NoError(t, s.Err())
					assert.NoError(t, s.Close())
				}
			})
		}
		wg.Wait()
		assert.Zero(t, f.leaseCount())
		assert.Zero(t, m.Stats().Sessions)
		synctest.Wait()
		assert.Zero(t, f.openStreams)
	})
	for range 10 {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeEtcd()
			f.setLatency(time.Millisecond)
			var wg sync.WaitGroup
			for range 50 {
				m := f.manager(t)
				for range 3 {
					wg.Go(func() {
						s, err := m.Shared(t.Context())
						if err == nil {
							_ = s.Err()
							return
						}
						assert.ErrorIs(t, err, lease.ErrClosed)
					})
				}
				wg.Go(func() {
					time.Sleep(time.Millisecond)
					_ = m.Close()
				})
			}
			wg.Wait()
			time.Sleep(10 * time.Second)
			assert.Zero(t, f.leaseCount(), "a manager that is closed while it opens leaves nothing")
		})
	}
}
