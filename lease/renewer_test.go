package lease_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkit/etcdkit/lease"
)

func TestRenewer_ForbiddenLeaseAffectsNoOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		var all []*lease.Session
		for range 20 {
			all = append(all, openSession(t, m, 10*time.Second))
		}
		forbidden := all[7]
		f.setOnRenewal(func(id int64, _ string) error {
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
		_, _, _, streams := f.counts()
		assert.Equal(t, 2, streams, "the refusal ends the stream once")
	})
}

func TestRenewer_StuckLeaseAffectsNoOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		stuck := openSession(t, m, 10*time.Second)
		var others []*lease.Session
		for range 20 {
			others = append(others, openSession(t, m, 10*time.Second))
		}
		f.setOnRenewal(func(id int64, _ string) error {
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

func TestRenewer_RenewsMostUrgentFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		var want, got []int64
		for range 50 {
			want = append(want, int64(openSession(t, m, 10*time.Second).ID()))
			time.Sleep(10 * time.Millisecond)
		}
		f.setFault(refuseRequests)
		time.Sleep(5 * time.Second)
		f.setOnRenewal(func(id int64, _ string) error {
			got = append(got, id)
			return nil
		})
		f.setFault(noFault)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, want, got)
	})
}

func TestRenewer_RefusedTokenCostsOneStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		s := openSession(t, m, 9*time.Second)
		start := time.Now()
		refused := false
		f.setOnRenewal(func(int64, string) error {
			if !refused {
				refused = true
				return rpctypes.ErrGRPCInvalidAuthToken
			}
			return nil
		})
		time.Sleep(4 * time.Second)
		assert.Equal(t, start.Add(3*time.Second+8100*time.Millisecond), s.Deadline(), "sent again in the same moment")
		_, _, _, streams := f.counts()
		assert.Equal(t, 2, streams)
	})
}

func TestRenewer_RefusedTokenAfterFailureCostsOneStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		s := openSession(t, m, 9*time.Second)
		start := time.Now()
		failures := []error{errRefused, rpctypes.ErrGRPCInvalidAuthToken}
		f.setOnRenewal(func(int64, string) (err error) {
			if len(failures) > 0 {
				err, failures = failures[0], failures[1:]
			}
			return err
		})
		time.Sleep(4 * time.Second)
		assert.Equal(t, start.Add(3*time.Second+8100*time.Millisecond), s.Deadline(), "sent again in the same moment")
		_, _, _, streams := f.counts()
		assert.Equal(t, 3, streams)
	})
}

func TestRenewer_BacksOffWhenTokensKeepBeingRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		s := openSession(t, m, 15*time.Second)
		f.setOnRenewal(func(int64, string) error { return rpctypes.ErrGRPCInvalidAuthToken })
		<-s.Context().Done()
		require.ErrorIs(t, s.Err(), rpctypes.ErrInvalidAuthToken)
		require.ErrorIs(t, s.Err(), lease.ErrUnauthenticated)
		_, _, _, streams := f.counts()
		assert.Less(t, streams, 60)
	})
}

func TestRenewer_LeavesFrozenMember(t *testing.T) {
	t.Parallel()
	for _, first := range []int{0, 1, 2} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeEtcd()
			f.members = []string{"a:2379", "b:2379", "c:2379"}
			f.streams = make([]string, first) // where gRPC's turn stands
			frozen := f.members[first]
			f.setOnRenewal(func(_ int64, member string) error {
				if member == frozen {
					return errFrozen
				}
				return nil
			})
			m := f.manager(t)
			s := openSession(t, m, 10*time.Second)
			time.Sleep(time.Minute)
			require.NoError(t, s.Err())
			assert.Equal(t, lease.Alive, s.State())
			assert.Len(t, f.streams[first:], 2, "the frozen one, and one after it")
		})
	}
}

func TestRenewer_NextStreamAvoidsFailedMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		// gRPC's turn is shared with all other calls: by chance it comes back to the frozen member
		// three times.
		f.members = []string{"a:2379", "a:2379", "a:2379", "b:2379"}
		f.setOnRenewal(func(_ int64, member string) error {
			if member == "a:2379" {
				return errFrozen
			}
			return nil
		})
		m := f.manager(t)
		start := time.Now()
		s := openSession(t, m, 10*time.Second)
		time.Sleep(6 * time.Second)
		require.NoError(t, s.Err())
		sent := start.Add(10 * time.Second / 3).Add(2 * time.Second)
		assert.Equal(t, sent.Add(9*time.Second), s.Deadline(), "answered at the second attempt, after one fifth of the TTL")
	})
}

func TestRenewer_EndsWithLastSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		a, b, c := openSession(t, m, 6*time.Second), openSession(t, m, 6*time.Second), openSession(t, m, 6*time.Second)
		time.Sleep(20 * time.Second)
		require.NoError(t, a.Close())
		b.Orphan()
		require.NoError(t, m.Revoke(t.Context(), c.ID()))
		require.ErrorIs(t, c.Err(), lease.ErrNotFound, "told at once")
		require.ErrorIs(t, a.Err(), lease.ErrClosed)
		require.ErrorIs(t, context.Cause(b.Context()), lease.ErrClosed)
		synctest.Wait()
		assert.Zero(t, f.openStreams, "the stream is closed")
		_, _, before, _ := f.counts()
		assert.Equal(t, 1, f.leaseCount(), "the orphan")
		time.Sleep(6 * time.Second)
		assert.Zero(t, f.leaseCount())
		_, _, after, _ := f.counts()
		assert.Equal(t, before, after)
	})
}

func TestRenewer_OneStreamCarriesThousandLeases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		// 2 s for all, which is as long as a stream may be silent.
		f.renewDuration = 2 * time.Millisecond
		m := f.manager(t)
		var all []*lease.Session
		for range 1000 {
			all = append(all, openSession(t, m, 10*time.Second))
		}
		time.Sleep(30 * time.Second)
		f.setFault(refuseRequests)
		time.Sleep(2 * time.Second)
		f.setFault(noFault)
		time.Sleep(30 * time.Second)
		for _, s := range all {
			require.NoError(t, s.Err())
		}
		require.NoError(t, m.Close())
		assert.Zero(t, f.leaseCount())
	})
}

func TestRenewer_SendsOneRenewalPerThirdOfTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		_, _, err := m.Acquire(t.Context()) // keeps the session
		require.NoError(t, err)
		for range 1000 {
			_, release, err := m.Acquire(t.Context())
			require.NoError(t, err)
			release()
		}
		time.Sleep(5*time.Minute + time.Second)
		grants, _, renewals, streams := f.counts()
		assert.Equal(t, 1, grants)
		assert.Equal(t, 60, renewals, "one every 5 s at the default TTL of 15 s")
		assert.Equal(t, 1, streams)
	})
}

func TestRenewer_IdleStreamMayEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		s := openSession(t, m, 15*time.Second)
		time.Sleep(6 * time.Second) // between two renewals
		f.setFault(refuseRequests)
		synctest.Wait()
		f.setFault(noFault)
		assert.Equal(t, lease.Alive, s.State())
		time.Sleep(10 * time.Second)
		assert.Equal(t, lease.Alive, s.State())
		assert.Zero(t, m.Stats().Failures)
	})
}

// On 32-bit platforms the difference of these TTLs does not fit an int.
func TestRenewer_OrdersTTLsOnEveryPlatform(t *testing.T) {
	t.Parallel()
	assert.Equal(t, 2*time.Second, lease.ShortestTTL(2*time.Second, time.Hour))
	assert.Equal(t, 2*time.Second, lease.ShortestTTL(time.Hour, 2*time.Second))
}
