package lease_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/lease"
)

// open opens a session of the fake.
func open(t *testing.T, m *lease.Manager, ttl time.Duration) *lease.Session {
	t.Helper()
	s, err := m.OpenSession(t.Context(), lease.WithTTL(ttl))
	require.NoError(t, err)
	return s
}

func TestDeadlineCountsFromTheSending(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.slow(500 * time.Millisecond)
		m := f.manager(t)
		begin := time.Now()
		s := open(t, m, 10*time.Second)
		assert.Equal(t, begin.Add(9*time.Second), s.Deadline(), "a second has passed since the request was sent")

		time.Sleep(5 * time.Second)
		synctest.Wait()
		sent := begin.Add(10 * time.Second / 3)
		assert.Equal(t, sent.Add(9*time.Second), s.Deadline(), "from the sending of the first renewal")
		assert.Equal(t, lease.Alive, s.State())
	})
}

func TestTheGrantedTTLCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.least = 20
		m := f.manager(t)
		s := open(t, m, 3*time.Second)
		assert.Equal(t, 20*time.Second, s.TTL())
		assert.Equal(t, time.Now().Add(18*time.Second), s.Deadline())
		f.set(loseBoth)
		<-s.Context().Done()
		assert.False(t, time.Now().Before(s.Deadline()))
	})
}

func TestShortTTLKeepsTheLeastMargin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newFake().manager(t)
		s := open(t, m, 1500*time.Millisecond)
		assert.Equal(t, 2*time.Second, s.TTL(), "a part of a second is rounded up")
		assert.Equal(t, time.Now().Add(1800*time.Millisecond), s.Deadline())
	})
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.least = 1
		m := f.manager(t)
		s := open(t, m, time.Second)
		assert.Equal(t, time.Now().Add(800*time.Millisecond), s.Deadline(), "more than a tenth")
	})
}

func TestSuspendedIsSeenAndEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		s := open(t, m, 12*time.Second)
		assert.Equal(t, lease.Alive, s.State())
		f.set(refuse)
		time.Sleep(5 * time.Second)
		assert.Equal(t, lease.Suspended, s.State())
		assert.Equal(t, 1, m.Stats().Suspended)
		require.NoError(t, s.Err())
		require.NoError(t, s.Context().Err())
		f.set(none)
		time.Sleep(3 * time.Second)
		assert.Equal(t, lease.Alive, s.State())
		assert.Zero(t, m.Stats().Lost)
	})
}

func TestLossTellsWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var told []error
		m := f.manager(t, lease.WithLossHook(func(cause error) { told = append(told, cause) }))
		s := open(t, m, 10*time.Second)
		f.set(refuse)
		<-s.Context().Done()
		synctest.Wait()
		require.ErrorIs(t, s.Err(), lease.ErrExpired)
		require.ErrorIs(t, s.Err(), lease.ErrUnavailable)
		require.ErrorContains(t, s.Err(), "connection refused")
		require.ErrorIs(t, s.Context().Err(), context.Canceled)
		assert.Equal(t, s.Err(), context.Cause(s.Context()))
		assert.Equal(t, lease.Lost, s.State())
		require.Len(t, told, 1)
		assert.Equal(t, s.Err(), told[0])
		assert.EqualValues(t, 1, m.Stats().Lost)
		require.NoError(t, s.Close(), "there is nothing to give back")
	})
}

func TestAPanickingLossHookIsContained(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t, lease.WithLossHook(func(error) { panic("in the hook") }))
		s := open(t, m, 10*time.Second)
		f.set(refuse)
		<-s.Context().Done()
		require.ErrorIs(t, s.Err(), lease.ErrExpired)
	})
}

func TestSession_CloseRevokesTheLeaseOfALostSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		s := open(t, m, 10*time.Second)
		f.set(loseUp)
		<-s.Context().Done()
		require.Equal(t, 1, f.living(), "etcd gives it a little more time")
		f.set(none)
		require.NoError(t, s.Close())
		assert.Zero(t, f.living())

		s = open(t, m, 10*time.Second)
		f.set(loseUp)
		<-s.Context().Done()
		began := time.Now()
		require.NoError(t, s.Close())
		assert.LessOrEqual(t, time.Since(began), 5*time.Second)
		require.NoError(t, s.Close())
		_, revokes, _, _ := f.counted()
		assert.Equal(t, 1, revokes)
	})
}

func TestALeaseThatIsGoneIsLostAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		s := open(t, m, 30*time.Second)
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

func TestAnAnswerAfterTheDeadlineRevivesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		s := open(t, m, 10*time.Second)
		time.Sleep(3 * time.Second)
		f.slow(time.Second) // the answer to the renewal of 3.33 s comes at 5.33 s
		time.Sleep(time.Second)
		s.Sleep(20 * time.Second) // when the machine has slept for as long as it takes
		time.Sleep(5 * time.Second)
		require.ErrorIs(t, s.Err(), lease.ErrExpired)
	})
}

func TestAMachineThatWasSuspendedHasLostItsSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newFake().manager(t)
		s := open(t, m, 10*time.Second)
		derived, stop := context.WithCancel(s.Context())
		defer stop()
		s.Sleep(8 * time.Second)
		require.NoError(t, s.Context().Err(), "not yet")
		s.Sleep(2 * time.Second)
		require.ErrorIs(t, s.Context().Err(), context.Canceled, "by the wall clock alone: no timer has fired")
		require.ErrorIs(t, context.Cause(s.Context()), lease.ErrExpired)
		require.ErrorIs(t, derived.Err(), context.Canceled)
		require.ErrorIs(t, context.Cause(derived), lease.ErrExpired)
	})
}

func TestContextsDerivedFromASessionNeedNoGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		s := open(t, m, 10*time.Second)
		synctest.Wait()
		begin := labelled(t)
		var all []context.Context
		for range 100 {
			ctx, stop := context.WithCancel(s.Context())
			t.Cleanup(stop)
			all = append(all, ctx)
		}
		synctest.Wait()
		assert.Equal(t, begin, labelled(t))
		f.set(refuse)
		<-s.Context().Done()
		for _, ctx := range all {
			<-ctx.Done()
			require.ErrorIs(t, context.Cause(ctx), lease.ErrExpired)
		}
		_, ok := s.Context().Deadline()
		assert.False(t, ok, "the deadline of a session moves")
	})
}

func TestStatesHaveNames(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "alive suspended lost state 9",
		strings.Join([]string{lease.Alive.String(), lease.Suspended.String(), lease.Lost.String(), lease.State(9).String()}, " "))
}
