package lease_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

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

func TestOneForbiddenLeaseDoesNotTakeTheOthersDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		var all []*lease.Session
		for range 20 {
			all = append(all, open(t, m, 10*time.Second))
		}
		forbidden := all[7]
		f.refusing(func(id int64, _ string) error {
			if id == int64(forbidden.ID()) {
				return rpctypes.ErrGRPCPermissionDenied
			}
			return nil
		})
		time.Sleep(time.Minute)
		require.ErrorIs(t, forbidden.Err(), lease.ErrPermission)
		require.ErrorIs(t, forbidden.Err(), lease.ErrExpired)
		for _, s := range all {
			if s != forbidden {
				require.NoError(t, s.Err())
				assert.Equal(t, lease.Alive, s.State())
			}
		}
		_, _, _, streams := f.counted()
		assert.Equal(t, 2, streams, "the refusal ends the stream once")
	})
}

func TestOneLeaseThatHoldsUpTheStreamDoesNotTakeTheOthersDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		stuck := open(t, m, 10*time.Second)
		var others []*lease.Session
		for range 20 {
			others = append(others, open(t, m, 10*time.Second))
		}
		f.refusing(func(id int64, _ string) error {
			if id == int64(stuck.ID()) {
				return errStuck
			}
			return nil
		})
		time.Sleep(time.Minute)
		require.ErrorIs(t, stuck.Err(), lease.ErrExpired)
		for _, s := range others {
			require.NoError(t, s.Err())
		}
	})
}

func TestTheMostUrgentAreRenewedFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		var want, got []int64
		for range 50 {
			want = append(want, int64(open(t, m, 10*time.Second).ID()))
			time.Sleep(10 * time.Millisecond)
		}
		f.set(refuse)
		time.Sleep(5 * time.Second)
		f.refusing(func(id int64, _ string) error {
			got = append(got, id)
			return nil
		})
		f.set(none)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, want, got)
	})
}

func TestARefusedTokenCostsOneStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		s := open(t, m, 9*time.Second)
		begin := time.Now()
		refused := false
		f.refusing(func(int64, string) error {
			if !refused {
				refused = true
				return rpctypes.ErrGRPCInvalidAuthToken
			}
			return nil
		})
		time.Sleep(4 * time.Second)
		assert.Equal(t, begin.Add(3*time.Second+8100*time.Millisecond), s.Deadline(), "sent again in the same moment")
		_, _, _, streams := f.counted()
		assert.Equal(t, 2, streams)
	})
}

func TestTokensThatAreRefusedForEverDoNotMakeABusyLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		s := open(t, m, 15*time.Second)
		f.refusing(func(int64, string) error { return rpctypes.ErrGRPCInvalidAuthToken })
		<-s.Context().Done()
		require.ErrorIs(t, s.Err(), rpctypes.ErrInvalidAuthToken)
		require.ErrorIs(t, s.Err(), lease.ErrUnauthenticated)
		_, _, _, streams := f.counted()
		assert.Less(t, streams, 60)
	})
}

func TestAFrozenMemberIsLeftForAnother(t *testing.T) {
	t.Parallel()
	for _, first := range []int{0, 1, 2} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.members = []string{"a:2379", "b:2379", "c:2379"}
			f.streams = make([]string, first) // where gRPC's turn stands
			frozen := f.members[first]
			f.refusing(func(_ int64, member string) error {
				if member == frozen {
					return errFrozen
				}
				return nil
			})
			m := f.manager(t)
			s := open(t, m, 10*time.Second)
			time.Sleep(time.Minute)
			require.NoError(t, s.Err())
			assert.Equal(t, lease.Alive, s.State())
			assert.Len(t, f.streams[first:], 2, "the frozen one, and one after it")
		})
	}
}

func TestTheNextStreamGoesToAnotherMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		// gRPC's turn is shared with all other calls: by chance it comes back to the frozen member three times.
		f.members = []string{"a:2379", "a:2379", "a:2379", "b:2379"}
		f.refusing(func(_ int64, member string) error {
			if member == "a:2379" {
				return errFrozen
			}
			return nil
		})
		m := f.manager(t)
		begin := time.Now()
		s := open(t, m, 10*time.Second)
		time.Sleep(6 * time.Second)
		require.NoError(t, s.Err())
		sent := begin.Add(10 * time.Second / 3).Add(2 * time.Second)
		assert.Equal(t, sent.Add(9*time.Second), s.Deadline(), "answered at the second attempt, after one fifth of the TTL")
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

func TestRenewalsEndWithTheLastSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		a, b, c := open(t, m, 6*time.Second), open(t, m, 6*time.Second), open(t, m, 6*time.Second)
		time.Sleep(20 * time.Second)
		require.NoError(t, a.Close())
		b.Orphan()
		require.NoError(t, m.Revoke(t.Context(), c.ID()))
		require.ErrorIs(t, c.Err(), lease.ErrNotFound, "told at once")
		require.ErrorIs(t, a.Err(), lease.ErrClosed)
		require.ErrorIs(t, context.Cause(b.Context()), lease.ErrClosed)
		synctest.Wait()
		assert.Zero(t, f.open, "the stream is closed")
		_, _, before, _ := f.counted()
		assert.Equal(t, 1, f.living(), "the orphan")
		time.Sleep(6 * time.Second)
		assert.Zero(t, f.living())
		_, _, after, _ := f.counted()
		assert.Equal(t, before, after)
	})
}

func TestOneStreamCarriesAThousandLeases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.work = 2 * time.Millisecond // 2 s for all, which is as long as a stream may be silent
		m := f.manager(t)
		var all []*lease.Session
		for range 1000 {
			all = append(all, open(t, m, 10*time.Second))
		}
		time.Sleep(30 * time.Second)
		f.set(refuse)
		time.Sleep(2 * time.Second)
		f.set(none)
		time.Sleep(30 * time.Second)
		for _, s := range all {
			require.NoError(t, s.Err())
		}
		require.NoError(t, m.Close())
		assert.Zero(t, f.living())
	})
}

func TestOneRenewalPerThirdOfTheTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		for range 1000 {
			_, release, err := m.Acquire(t.Context())
			require.NoError(t, err)
			release()
		}
		time.Sleep(5*time.Minute + time.Second)
		grants, _, renewals, streams := f.counted()
		assert.Equal(t, 1, grants)
		assert.Equal(t, 60, renewals, "one every 5 s at the default TTL of 15 s")
		assert.Equal(t, 1, streams)
	})
}

func TestAStreamThatEndsWhileIdleIsNoFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		m := f.manager(t)
		s := open(t, m, 15*time.Second)
		time.Sleep(6 * time.Second) // between two renewals
		f.set(refuse)
		synctest.Wait()
		f.set(none)
		assert.Equal(t, lease.Alive, s.State())
		time.Sleep(10 * time.Second)
		assert.Equal(t, lease.Alive, s.State())
		assert.Zero(t, m.Stats().Failures)
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

func TestAClientWithoutAConnectionRenewsThroughItsLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cli := clientv3.NewCtxClient(t.Context())
		fake := &handmade{leases: map[clientv3.LeaseID]bool{}}
		cli.Lease = fake
		m := lease.New(cli)
		defer m.Close()
		s := open(t, m, 9*time.Second)
		assert.EqualValues(t, 1, s.ID(), "which it has chosen")
		time.Sleep(31 * time.Second)
		require.NoError(t, s.Err())
		assert.EqualValues(t, 10, fake.renewals.Load())

		fake.broken.Store(true)
		<-s.Context().Done()
		require.ErrorIs(t, s.Err(), errHandmade)

		fake.broken.Store(false)
		s = open(t, m, 9*time.Second)
		info, err := m.Describe(t.Context(), s.ID())
		require.NoError(t, err)
		assert.Equal(t, 9*time.Second, info.Granted)
		require.NoError(t, s.Close())
		_, err = m.KeepAliveOnce(t.Context(), s.ID())
		require.ErrorIs(t, err, lease.ErrNotFound)
		require.ErrorIs(t, m.Revoke(t.Context(), s.ID()), lease.ErrNotFound)
	})
}

var errHandmade = errors.New("broken")

// handmade is a Lease of a user's own.
type handmade struct {
	clientv3.Lease

	leases   map[clientv3.LeaseID]bool
	renewals atomic.Int64
	broken   atomic.Bool
}

func (h *handmade) Grant(context.Context, int64) (*clientv3.LeaseGrantResponse, error) {
	id := clientv3.LeaseID(len(h.leases) + 1)
	h.leases[id] = true
	return &clientv3.LeaseGrantResponse{ID: id, TTL: 9}, nil
}

func (h *handmade) Revoke(_ context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	if !h.leases[id] {
		return nil, rpctypes.ErrLeaseNotFound
	}
	h.leases[id] = false
	return &clientv3.LeaseRevokeResponse{}, nil
}

func (h *handmade) TimeToLive(_ context.Context, id clientv3.LeaseID, _ ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	return &clientv3.LeaseTimeToLiveResponse{ID: id, TTL: 9, GrantedTTL: 9}, nil
}

func (h *handmade) KeepAliveOnce(_ context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	switch {
	case h.broken.Load():
		return nil, errHandmade
	case !h.leases[id]:
		return nil, rpctypes.ErrLeaseNotFound
	}
	h.renewals.Add(1)
	return &clientv3.LeaseKeepAliveResponse{ID: id, TTL: 9}, nil
}

func TestStatesHaveNames(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "alive suspended lost state 9",
		strings.Join([]string{lease.Alive.String(), lease.Suspended.String(), lease.Lost.String(), lease.State(9).String()}, " "))
}
