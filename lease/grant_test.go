package lease_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
)

func TestManager_RepeatedGrantCreatesOneLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		f.loseNextResponses("grant", 2)
		s, err := m.OpenSession(t.Context(), lease.WithTTL(10*time.Second))
		require.NoError(t, err)
		assert.Equal(t, 1, f.leaseCount())
		grants, _, renewals, _ := f.counts()
		assert.Equal(t, 3, grants)
		assert.Equal(t, 1, renewals, "the TTL is asked for")
		assert.True(t, s.Deadline().Before(f.expiry(s.ID())))
		require.NoError(t, s.Close())
		assert.Zero(t, f.leaseCount())
	})
}

func TestManager_RevokesLeaseOfAbandonedGrant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		f.setFault(loseResponses)
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, err := m.OpenSession(ctx, lease.WithTTL(time.Minute))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, lease.ErrUnknownOutcome)
		grants, _, _, _ := f.counts()
		assert.Positive(t, grants, "it was granted")
		f.setFault(noFault)
		time.Sleep(6 * time.Second)
		assert.Zero(t, f.leaseCount(), "revoked in the background")
	})
}

func TestManager_OpenSessionRenewsAfterSlowGrant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		f.setLatency(300 * time.Millisecond)
		m := f.manager(t)
		_, err := m.OpenSession(t.Context(), lease.WithTTL(2*time.Second))
		require.NoError(t, err)
		_, _, renewals, _ := f.counts()
		assert.Zero(t, renewals, "there is time enough")

		f.setLatency(550 * time.Millisecond)
		start := time.Now()
		s, err := m.OpenSession(t.Context(), lease.WithTTL(2*time.Second))
		require.NoError(t, err)
		assert.Equal(t, 2200*time.Millisecond, time.Since(start), "more than half of it was gone")
		assert.Equal(t, start.Add(2900*time.Millisecond), s.Deadline())
	})
}

func TestManager_RevokeSucceedsIfResponseIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		for range 20 {
			info, err := m.Grant(t.Context(), time.Minute)
			require.NoError(t, err)
			f.loseNextResponses("revoke", 1)
			require.NoError(t, m.Revoke(t.Context(), info.ID))
			require.ErrorIs(t, m.Revoke(t.Context(), info.ID), lease.ErrNotFound)
		}
		assert.Zero(t, f.leaseCount())
	})
}

func TestSession_CloseRevokesAfterOpeningContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		ctx, stop := context.WithCancel(t.Context())
		s, err := m.OpenSession(ctx)
		require.NoError(t, err)
		stop()
		require.NoError(t, s.Err(), "the context of the opening is over, the session is not")
		f.loseNextResponses("revoke", 1)
		require.NoError(t, s.Close())
		require.NoError(t, s.Close())
		assert.Zero(t, f.leaseCount())
		_, revokes, _, _ := f.counts()
		assert.Equal(t, 2, revokes, "and not again")
	})
}

func TestManager_CloseIsBoundedDuringOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		var all []*lease.Session
		for range 100 {
			all = append(all, openSession(t, m, time.Minute))
		}
		f.setFault(loseBoth)
		start := time.Now()
		err := all[0].Close()
		require.ErrorIs(t, err, lease.ErrUnavailable)
		assert.Equal(t, err, all[0].Close())
		assert.LessOrEqual(t, time.Since(start), 5*time.Second+time.Millisecond)
		start = time.Now()
		require.ErrorIs(t, m.Close(), lease.ErrUnavailable)
		assert.LessOrEqual(t, time.Since(start), 5*time.Second+time.Millisecond)
		for _, s := range all {
			require.ErrorIs(t, s.Err(), lease.ErrClosed)
		}
		_, err = m.OpenSession(t.Context())
		require.ErrorIs(t, err, lease.ErrClosed)
		_, err = m.Shared(t.Context())
		require.ErrorIs(t, err, lease.ErrClosed)
		require.ErrorIs(t, m.Revoke(t.Context(), 1), lease.ErrClosed)
	})
}

func TestManager_ValidatesTTLs(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		ttl  time.Duration
		want error
	}{
		"nothing":                          {0, kv.ErrInvalid},
		"a negative one":                   {-time.Second, kv.ErrInvalid},
		"minus five seconds":               {-5 * time.Second, kv.ErrInvalid},
		"the least there is":               {math.MinInt64, kv.ErrInvalid},
		"less than a second":               {999 * time.Millisecond, kv.ErrInvalid},
		"more than etcd takes":             {math.MaxInt64, kv.ErrTooLarge},
		"a second":                         {time.Second, nil},
		"a second and a bit":               {1001 * time.Millisecond, nil},
		"as much as etcd takes, 285 years": {clientv3.MaxLeaseTTL * time.Second, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeEtcd()
				m := f.manager(t)
				_, granted := m.Grant(t.Context(), tt.ttl)
				_, opened := m.OpenSession(t.Context(), lease.WithTTL(tt.ttl))
				other, created := lease.New(clientv3.NewCtxClient(t.Context()), lease.WithStub(f), lease.WithSessionTTL(tt.ttl))
				for _, err := range []error{granted, opened, created} {
					if tt.want == nil {
						require.NoError(t, err)
						continue
					}
					require.ErrorIs(t, err, tt.want)
					require.ErrorIs(t, err, kv.ErrInvalid)
				}
				if tt.want == nil {
					s, err := other.Shared(t.Context())
					require.NoError(t, err)
					time.Sleep(10 * time.Second)
					require.NoError(t, s.Err())
					require.NoError(t, other.Close())
				} else {
					assert.Nil(t, other)
					grants, _, _, _ := f.counts()
					assert.Zero(t, grants, "nothing is sent")
					if tt.want == kv.ErrInvalid { //nolint:errorlint // the table's own value
						require.ErrorContains(t, granted, "2s at least", "the server's minimum is named")
					}
				}
			})
		})
	}
}

func TestNew_ReturnsAllValidationErrors(t *testing.T) {
	t.Parallel()
	m := newFakeEtcd().manager(t)
	_, err := m.OpenSession(t.Context(), lease.WithTTL(0), lease.WithLease(0))
	require.ErrorContains(t, err, "must be positive")
	require.ErrorContains(t, err, "no lease given")
	require.ErrorContains(t, err, "exclude each other")
	require.ErrorIs(t, err, lease.ErrInvalid)

	_, err = lease.New(nil, lease.WithNamespace("//"), lease.WithSessionTTL(-1), lease.WithTimeouts(-1, 0))
	require.ErrorIs(t, err, lease.ErrInvalid)
	for _, text := range []string{"lease: new: ", "no client", "no name", "TTL -1ns", "negative timeout"} {
		require.ErrorContains(t, err, text)
	}
	_, err = lease.New(clientv3.NewCtxClient(t.Context()))
	require.ErrorIs(t, err, lease.ErrInvalid)
	require.ErrorContains(t, err, "no Lease")
	_, err = m.Namespace("//").OpenKey(t.Context(), "k", nil)
	require.ErrorIs(t, err, lease.ErrInvalid)

	_, err = m.Describe(t.Context(), clientv3.NoLease)
	require.ErrorIs(t, err, lease.ErrInvalid)
}

func TestInfo_RemainingCountsFromRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		f.setLatency(time.Second)
		m := f.manager(t, lease.WithNamespace("app"))
		got, err := m.Grant(t.Context(), 30*time.Second)
		require.NoError(t, err)
		assert.Equal(t, lease.Info{ID: got.ID, Granted: 30 * time.Second, Remaining: 28 * time.Second}, got)
		f.mu.Lock()
		f.leases[int64(got.ID)].keys = [][]byte{[]byte("app/.etcdkit/session/1"), []byte("app/a"), []byte("app2/b"), []byte("app/c")}
		f.mu.Unlock()
		f.setLatency(0)
		info, err := m.Describe(t.Context(), got.ID)
		require.NoError(t, err)
		assert.Equal(t, lease.Info{ID: got.ID, Granted: 30 * time.Second, Remaining: 29 * time.Second, Keys: []string{"a", "c"}}, info)
		time.Sleep(20 * time.Second)
		again, err := m.KeepAliveOnce(t.Context(), got.ID)
		require.NoError(t, err)
		assert.Equal(t, 30*time.Second, again.Remaining)
		time.Sleep(31 * time.Second)
		_, err = m.KeepAliveOnce(t.Context(), got.ID)
		require.ErrorIs(t, err, lease.ErrNotFound)
		_, err = m.Describe(t.Context(), got.ID)
		require.ErrorIs(t, err, lease.ErrNotFound)
		_, err = m.OpenSession(t.Context(), lease.WithLease(got.ID))
		require.ErrorIs(t, err, lease.ErrNotFound)
	})
}

func TestManager_OpenSessionRenewsAdoptedLeaseFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		first := f.manager(t)
		s := openSession(t, first, 20*time.Second)
		time.Sleep(3 * time.Second)
		s.Orphan()
		time.Sleep(10 * time.Second)

		second := f.manager(t)
		f.setFault(loseBoth)
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, err := second.OpenSession(ctx, lease.WithLease(s.ID()))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		f.setFault(noFault)
		adopted, err := second.OpenSession(t.Context(), lease.WithLease(s.ID()))
		require.NoError(t, err)
		assert.Equal(t, s.ID(), adopted.ID())
		assert.Equal(t, time.Now().Add(18*time.Second), adopted.Deadline())
		require.NoError(t, adopted.Close())
		assert.Zero(t, f.leaseCount())
	})
}
