package lease_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/lease"
)

// openSession opens a session of the fake.
func openSession(t *testing.T, m *lease.Manager, ttl time.Duration) *lease.Session {
	t.Helper()
	s, err := m.OpenSession(t.Context(), lease.WithTTL(ttl))
	require.NoError(t, err)
	return s
}

func TestSession_DeadlineCountsFromSending(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		f.setLatency(500 * time.Millisecond)
		m := f.manager(t)
		start := time.Now()
		s := openSession(t, m, 10*time.Second)
		assert.Equal(t, start.Add(9*time.Second), s.Deadline(), "a second has passed since the request was sent")

		time.Sleep(5 * time.Second)
		synctest.Wait()
		sent := start.Add(10 * time.Second / 3)
		assert.Equal(t, sent.Add(9*time.Second), s.Deadline(), "from the sending of the first renewal")
		assert.Equal(t, lease.Alive, s.State())
	})
}

func TestSession_ConcurrentClosesWaitForOneRevocation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		f.setLatency(500 * time.Millisecond)
		m := f.manager(t)
		s := openSession(t, m, 10*time.Second)
		start := time.Now()
		var closes sync.WaitGroup
		for range 3 {
			closes.Go(func() {
				assert.NoError(t, s.Close())
				assert.Equal(t, start.Add(time.Second), time.Now(), "the round trip of the revocation")
			})
		}
		closes.Wait()
	})
}

// TestManager_CloseDoesNotWaitForLateClosesOfSessions closes more sessions than the manager does at
// a time, just before its time is up: those that it has not begun with have more time.
func TestManager_CloseDoesNotWaitForLateClosesOfSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		sessions := make([]*lease.Session, 50)
		for i := range sessions {
			sessions[i] = openSession(t, m, time.Minute)
		}
		f.setFault(loseRequests)
		start := time.Now()
		var closes sync.WaitGroup
		time.AfterFunc(3900*time.Millisecond, func() {
			for _, s := range sessions {
				closes.Go(func() { assert.Error(t, s.Close()) })
			}
		})
		require.ErrorIs(t, m.Close(), lease.ErrUnavailable)
		assert.Equal(t, start.Add(4*time.Second), time.Now())
		closes.Wait()
	})
}

func TestSession_DeadlineUsesGrantedTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		f.minTTL = 20
		m := f.manager(t)
		s := openSession(t, m, 3*time.Second)
		assert.Equal(t, 20*time.Second, s.TTL())
		assert.Equal(t, time.Now().Add(18*time.Second), s.Deadline())
		f.setFault(loseBoth)
		<-s.Context().Done()
		assert.False(t, time.Now().Before(s.Deadline()))
	})
}

func TestSession_ShortTTLKeepsMinimumMargin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newFakeEtcd().manager(t)
		s := openSession(t, m, 1500*time.Millisecond)
		assert.Equal(t, 2*time.Second, s.TTL(), "a part of a second is rounded up")
		assert.Equal(t, time.Now().Add(1800*time.Millisecond), s.Deadline())
	})
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		f.minTTL = 1
		m := f.manager(t)
		s := openSession(t, m, time.Second)
		assert.Equal(t, time.Now().Add(800*time.Millisecond), s.Deadline(), "more than a tenth")
	})
}

func TestSession_StateIsSuspendedWhileRenewalsFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		s := openSession(t, m, 12*time.Second)
		assert.Equal(t, lease.Alive, s.State())
		f.setFault(refuseRequests)
		time.Sleep(5 * time.Second)
		assert.Equal(t, lease.Suspended, s.State())
		assert.Equal(t, 1, m.Stats().Suspended)
		require.NoError(t, s.Err())
		require.NoError(t, s.Context().Err())
		f.setFault(noFault)
		time.Sleep(3 * time.Second)
		assert.Equal(t, lease.Alive, s.State())
		assert.Zero(t, m.Stats().Lost)
	})
}

func TestSession_LossReportsCause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		var reported []error
		m := f.manager(t, withLossHook(func(cause error) { reported = append(reported, cause) }))
		s := openSession(t, m, 10*time.Second)
		f.setFault(refuseRequests)
		<-s.Context().Done()
		synctest.Wait()
		require.ErrorIs(t, s.Err(), lease.ErrExpired)
		require.ErrorIs(t, s.Err(), lease.ErrUnavailable)
		require.ErrorContains(t, s.Err(), "connection refused")
		require.ErrorIs(t, s.Context().Err(), context.Canceled)
		assert.Equal(t, s.Err(), context.Cause(s.Context()))
		assert.Equal(t, lease.Lost, s.State())
		require.Len(t, reported, 1)
		assert.Equal(t, s.Err(), reported[0])
		assert.EqualValues(t, 1, m.Stats().Lost)
		require.NoError(t, s.Close(), "there is nothing to give back")
	})
}

func TestManager_RecoversPanicOfLossHook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t, withLossHook(func(error) { panic("in the hook") }))
		s := openSession(t, m, 10*time.Second)
		f.setFault(refuseRequests)
		<-s.Context().Done()
		require.ErrorIs(t, s.Err(), lease.ErrExpired)
	})
}

func TestSession_CloseRevokesLeaseOfLostSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		s := openSession(t, m, 10*time.Second)
		f.setFault(loseRequests)
		<-s.Context().Done()
		require.Equal(t, 1, f.leaseCount(), "etcd gives it a little more time")
		f.setFault(noFault)
		require.NoError(t, s.Close())
		assert.Zero(t, f.leaseCount())

		s = openSession(t, m, 10*time.Second)
		f.setFault(loseRequests)
		<-s.Context().Done()
		start := time.Now()
		require.NoError(t, s.Close())
		assert.LessOrEqual(t, time.Since(start), 5*time.Second)
		require.NoError(t, s.Close())
		_, revokes, _, _ := f.counts()
		assert.Equal(t, 1, revokes)
	})
}

func TestSession_IsLostWhenLeaseIsNotFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		s := openSession(t, m, 30*time.Second)
		time.Sleep(time.Second)
		f.mu.Lock()
		delete(f.leases, int64(s.ID()))
		f.mu.Unlock()
		gone := time.Now()
		<-s.Context().Done()
		require.ErrorIs(t, s.Err(), lease.ErrNotFound)
		require.ErrorIs(t, s.Err(), lease.ErrExpired)
		assert.LessOrEqual(t, time.Since(gone), 10*time.Second, "a third of the TTL")
	})
}

func TestSession_LateResponseDoesNotReviveSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		s := openSession(t, m, 10*time.Second)
		time.Sleep(3 * time.Second)
		f.setLatency(time.Second) // the answer to the renewal of 3.33 s comes at 5.33 s
		time.Sleep(time.Second)
		s.AdvanceWallClock(20 * time.Second) // when the machine has slept for as long as it takes
		time.Sleep(5 * time.Second)
		require.ErrorIs(t, s.Err(), lease.ErrExpired)
	})
}

func TestSession_IsLostAfterMachineSuspend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newFakeEtcd().manager(t)
		s := openSession(t, m, 10*time.Second)
		derived, stop := context.WithCancel(s.Context())
		defer stop()
		s.AdvanceWallClock(8 * time.Second)
		require.NoError(t, s.Context().Err(), "not yet")
		s.AdvanceWallClock(2 * time.Second)
		require.ErrorIs(t, s.Context().Err(), context.Canceled, "by the wall clock alone: no timer has fired")
		require.ErrorIs(t, context.Cause(s.Context()), lease.ErrExpired)
		require.ErrorIs(t, derived.Err(), context.Canceled)
		require.ErrorIs(t, context.Cause(derived), lease.ErrExpired)
	})
}

func TestSession_DerivedContextsNeedNoGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		s := openSession(t, m, 10*time.Second)
		synctest.Wait()
		start := bubbleGoroutines(t)
		var all []context.Context
		for range 100 {
			ctx, stop := context.WithCancel(s.Context())
			t.Cleanup(stop)
			all = append(all, ctx)
		}
		synctest.Wait()
		assert.Equal(t, start, bubbleGoroutines(t))
		f.setFault(refuseRequests)
		<-s.Context().Done()
		for _, ctx := range all {
			<-ctx.Done()
			require.ErrorIs(t, context.Cause(ctx), lease.ErrExpired)
		}
		_, ok := s.Context().Deadline()
		assert.False(t, ok, "the deadline of a session moves")
	})
}

func TestState_String(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "alive suspended lost state 9",
		strings.Join([]string{lease.Alive.String(), lease.Suspended.String(), lease.Lost.String(), lease.State(9).String()}, " "))
}
