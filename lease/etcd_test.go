package lease_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
)

// newManager returns a manager, closed at the end of the test.
func newManager(t *testing.T, cli *clientv3.Client, opts ...lease.Option) *lease.Manager {
	t.Helper()
	m := etcdtest.Must(lease.New(cli, opts...))
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// leaseGone reports whether etcd has no such lease.
func leaseGone(t *testing.T, cli *clientv3.Client, id clientv3.LeaseID) bool {
	t.Helper()
	r, err := cli.TimeToLive(t.Context(), id)
	require.NoError(t, err)
	return r.TTL < 0
}

// leaseCount is how many leases etcd has.
func leaseCount(t *testing.T, cli *clientv3.Client) int {
	t.Helper()
	r, err := cli.Leases(t.Context())
	require.NoError(t, err)
	return len(r.Leases)
}

func TestManager_OpenAndCloseCostOneRPCEach(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	m := newManager(t, count.Client(t, parttest.Harden))
	s, err := m.OpenSession(t.Context(), lease.WithTTL(30*time.Second))
	require.NoError(t, err)
	_, err = m.Shared(t.Context())
	require.NoError(t, err)
	_, release, err := m.Acquire(t.Context())
	require.NoError(t, err)
	release()
	require.NoError(t, s.Close())
	assert.Equal(t, map[string]int{"Lease/LeaseGrant": 2, "Lease/LeaseRevoke": 1}, count.Counts())
}

func TestManager_DirectCallsCostOneRPCEach(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	m := newManager(t, count.Client(t, parttest.Harden))
	info, err := m.Grant(t.Context(), 30*time.Second)
	require.NoError(t, err)
	_, err = m.Describe(t.Context(), info.ID)
	require.NoError(t, err)
	_, err = m.KeepAliveOnce(t.Context(), info.ID)
	require.NoError(t, err)
	s, err := m.OpenSession(t.Context(), lease.WithLease(info.ID))
	require.NoError(t, err)
	require.NoError(t, m.Revoke(t.Context(), info.ID))
	require.ErrorIs(t, s.Err(), lease.ErrNotFound)
	assert.Equal(t, map[string]int{
		"Lease/LeaseGrant": 1, "Lease/LeaseTimeToLive": 1, "Lease/LeaseKeepAlive": 2, "Lease/LeaseRevoke": 1,
	}, count.Counts())
}

// TestManager_DeadlineErrorNamesUnreachableEndpoint has nothing listen where etcd was.
func TestManager_DeadlineErrorNamesUnreachableEndpoint(t *testing.T) {
	t.Parallel()
	link := etcdtest.Start(t).Proxy(t)
	m := newManager(t, etcdtest.NewClient(t, link.Endpoints(), parttest.Harden))
	link.Refuse()
	link.Cut()
	calls := map[string]func(ctx context.Context) error{
		"OpenSession": func(ctx context.Context) error { _, err := m.OpenSession(ctx); return err },
		"Shared":      func(ctx context.Context) error { _, err := m.Shared(ctx); return err },
		"TimeToLive":  func(ctx context.Context) error { _, err := m.TimeToLive(ctx, 7); return err },
		"Describe":    func(ctx context.Context) error { _, err := m.Describe(ctx, 7); return err },
	}
	for name, call := range calls {
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		err := call(ctx)
		stop()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
		require.ErrorIs(t, err, lease.ErrUnavailable, name)
		require.ErrorContains(t, err, link.Endpoint(), name)
		require.ErrorContains(t, err, "refused", name)
	}
}

func TestManager_UnknownLeaseIsErrNotFound(t *testing.T) {
	t.Parallel()
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	m := newManager(t, cli)
	id := wire.NewLeaseID()
	_, err := m.KeepAliveOnce(t.Context(), id)
	require.ErrorIs(t, err, lease.ErrNotFound)
	_, err = m.OpenSession(t.Context(), lease.WithLease(id))
	require.ErrorIs(t, err, lease.ErrNotFound)
	_, err = m.Describe(t.Context(), id)
	require.ErrorIs(t, err, lease.ErrNotFound)
	require.ErrorIs(t, m.Revoke(t.Context(), id), lease.ErrNotFound)
	_, err = etcdtest.Must(kv.New(cli)).Put(t.Context(), dir+"k", nil, kv.WithLease(id))
	require.ErrorIs(t, err, lease.ErrNotFound, "a put on a lease that is gone says the same")
	assert.Contains(t, fmt.Sprint(err), "lease not found")
}

func TestSession_TTLIsRaisedByServer(t *testing.T) {
	t.Parallel()
	m := newManager(t, etcdtest.Client(t))
	s, err := m.OpenSession(t.Context(), lease.WithTTL(time.Second))
	require.NoError(t, err)
	assert.Equal(t, 2*time.Second, s.TTL())
}

func TestManager_DescribeReturnsKeysInNamespace(t *testing.T) {
	t.Parallel()
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	m := newManager(t, cli, lease.WithNamespace(dir+"app"))
	info, err := m.Grant(t.Context(), time.Minute)
	require.NoError(t, err)
	for _, key := range []string{"app/a", "app/b/c", "other"} {
		_, err := cli.Put(t.Context(), dir+key, "", clientv3.WithLease(info.ID))
		require.NoError(t, err)
	}
	got, err := m.Describe(t.Context(), info.ID)
	require.NoError(t, err)
	assert.Equal(t, []string{"a", "b/c"}, got.Keys)
	assert.Equal(t, time.Minute, got.Granted)
	assert.InDelta(t, time.Minute.Seconds(), got.Remaining.Seconds(), 5)
	require.NoError(t, m.Revoke(t.Context(), info.ID))
	assert.True(t, leaseGone(t, cli, info.ID))
}

func TestSession_VerifyDetectsRevokedLease(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	m := newManager(t, count.Client(t, parttest.Harden))
	s, err := m.OpenSession(t.Context(), lease.WithTTL(time.Minute))
	require.NoError(t, err)
	count.Reset()
	require.NoError(t, s.Verify(t.Context()))
	assert.Equal(t, 1, count.Count("Lease/LeaseTimeToLive"))
	ended, stop := context.WithCancel(t.Context())
	stop()
	require.ErrorIs(t, s.Verify(ended), context.Canceled)
	require.NoError(t, s.Err(), "nothing is known of the lease then")

	_, err = etcdtest.Client(t).Revoke(t.Context(), s.ID())
	require.NoError(t, err)
	require.ErrorIs(t, s.Verify(t.Context()), lease.ErrNotFound)
	require.ErrorIs(t, s.Err(), lease.ErrExpired)
	count.Reset()
	require.ErrorIs(t, s.Verify(t.Context()), lease.ErrNotFound)
	assert.Zero(t, count.Count("Lease/LeaseTimeToLive"), "it is known")
}

func TestSession_IsLostSoonAfterItsLeaseIsRevoked(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t)
	m := newManager(t, etcdtest.Client(t))
	trials := 10
	if long() {
		trials = 60
	}
	var wg sync.WaitGroup
	for i := range trials {
		wg.Go(func() {
			s, err := m.OpenSession(t.Context(), lease.WithTTL(6*time.Second))
			if !assert.NoError(t, err) {
				return
			}
			timer := time.NewTimer(time.Duration(i) * 2 * time.Second / time.Duration(trials))
			<-timer.C
			_, err = cli.Revoke(t.Context(), s.ID())
			assert.NoError(t, err)
			at := time.Now()
			<-s.Context().Done()
			assert.Less(t, time.Since(at), 2500*time.Millisecond, "a third of the TTL and a bit")
			assert.ErrorIs(t, s.Err(), lease.ErrNotFound)
			assert.ErrorIs(t, context.Cause(s.Context()), lease.ErrExpired)
		})
	}
	wg.Wait()
}

func TestSession_OrphanStopsRenewal(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t)
	m := newManager(t, etcdtest.Client(t))
	s, err := m.OpenSession(t.Context(), lease.WithTTL(2*time.Second))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return m.Stats().Renewals > 0 }, 10*time.Second, 10*time.Millisecond)
	s.Orphan()
	at := time.Now()
	require.Eventually(t, func() bool { return leaseGone(t, cli, s.ID()) }, 15*time.Second, 20*time.Millisecond)
	assert.Less(t, time.Since(at), 6*time.Second)
}

func TestSession_ConcurrencyWorksWithClientMutex(t *testing.T) {
	t.Parallel()
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	m := newManager(t, cli)
	s, err := m.OpenSession(t.Context())
	require.NoError(t, err)
	other, err := concurrency.NewSession(etcdtest.Client(t))
	require.NoError(t, err)
	defer other.Close()
	mutex := concurrency.NewMutex(s.Concurrency(), dir+"mutex")
	require.NoError(t, mutex.Lock(t.Context()))
	assert.Same(t, s.Concurrency(), s.Concurrency())
	assert.Equal(t, s.ID(), s.Concurrency().Lease())
	require.ErrorIs(t, concurrency.NewMutex(other, dir+"mutex").TryLock(t.Context()), concurrency.ErrLocked)

	compat := s.Concurrency()
	require.NoError(t, s.Close())
	<-compat.Done()
	<-compat.Ctx().Done()
	require.NoError(t, concurrency.NewMutex(other, dir+"mutex").TryLock(t.Context()), "the key went with the lease")
	assert.Nil(t, s.Concurrency())
}

func TestSession_GuardRefusesWriteAfterLeaseIsGone(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	cli, dir := count.Client(t, parttest.Harden), etcdtest.Prefix(t)
	m := newManager(t, cli, lease.WithNamespace(dir))
	store := etcdtest.Must(kv.New(cli, kv.WithNamespace(dir+"elsewhere")))
	s, err := m.OpenSession(t.Context(), lease.WithTTL(time.Minute))
	require.NoError(t, err)
	for range 3 {
		_, err = store.Put(t.Context(), "k", []byte("held"), kv.WithGuard(s))
		require.NoError(t, err)
	}
	assert.Equal(t, 1, count.Count("KV/Put"), "the guard's own key, once")
	info, err := m.Describe(t.Context(), s.ID())
	require.NoError(t, err)
	assert.Empty(t, info.Keys, "it is hidden")

	_, err = etcdtest.Client(t).Revoke(t.Context(), s.ID())
	require.NoError(t, err)
	require.NoError(t, s.Err(), "which the session does not know yet")
	_, err = store.Put(t.Context(), "k", []byte("late"), kv.WithGuard(s))
	require.ErrorIs(t, err, kv.ErrGuard)
	require.ErrorIs(t, err, lease.ErrExpired)
	_, err = store.Delete(t.Context(), "k", kv.WithGuard(s))
	require.ErrorIs(t, err, kv.ErrGuard)
	e, err := store.Get(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, "held", string(e.Value))
}

// A guard fails when somebody tampers with its key, although the lease lives.
func TestSession_VerifyRestoresTheGuard(t *testing.T) {
	t.Parallel()
	for name, tamper := range map[string]func(*clientv3.Client, string) error{
		"deleted": func(cli *clientv3.Client, key string) error {
			_, err := cli.Delete(t.Context(), key)
			return err
		},
		"put without the lease": func(cli *clientv3.Client, key string) error {
			_, err := cli.Put(t.Context(), key, "")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			count := etcdtest.Counter(t)
			cli, dir := count.Client(t, parttest.Harden), etcdtest.Prefix(t)
			m := newManager(t, cli, lease.WithNamespace(dir))
			store := etcdtest.Must(kv.New(cli, kv.WithNamespace(dir)))
			s, err := m.OpenSession(t.Context(), lease.WithTTL(time.Minute))
			require.NoError(t, err)
			_, err = store.Put(t.Context(), "k", nil, kv.WithGuard(s))
			require.NoError(t, err)
			count.Reset()
			require.NoError(t, s.Verify(t.Context()))
			assert.Equal(t, 1, count.Total(), "%v", count.Counts())

			other := etcdtest.Client(t)
			keys, err := other.TimeToLive(t.Context(), s.ID(), clientv3.WithAttachedKeys())
			require.NoError(t, err)
			require.Len(t, keys.Keys, 1)
			require.NoError(t, tamper(other, string(keys.Keys[0])))
			_, err = store.Put(t.Context(), "k", nil, kv.WithGuard(s))
			require.ErrorIs(t, err, kv.ErrGuard)
			require.NoError(t, s.Verify(t.Context()))
			_, err = store.Put(t.Context(), "k", nil, kv.WithGuard(s))
			require.NoError(t, err, "Verify has said that the lease lives")

			_, err = other.Revoke(t.Context(), s.ID())
			require.NoError(t, err)
			require.ErrorIs(t, s.Verify(t.Context()), lease.ErrNotFound)
			require.ErrorIs(t, s.Err(), lease.ErrExpired)
		})
	}
}

func TestSession_GuardOfEndedSessionMatchesErrExpired(t *testing.T) {
	t.Parallel()
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	m := newManager(t, cli, lease.WithNamespace(dir))
	store := etcdtest.Must(kv.New(cli, kv.WithNamespace(dir)))
	revoked, err := m.OpenSession(t.Context())
	require.NoError(t, err)
	_, err = cli.Revoke(t.Context(), revoked.ID())
	require.NoError(t, err)
	closed, err := m.OpenSession(t.Context())
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	for _, s := range []*lease.Session{revoked, closed} {
		_, err = store.Put(t.Context(), "k", nil, kv.WithGuard(s))
		require.ErrorIs(t, err, kv.ErrGuard)
		require.ErrorIs(t, err, lease.ErrExpired)
	}
	require.ErrorIs(t, revoked.Err(), lease.ErrNotFound, "it was found out on the way")
}

func TestSession_GuardReportsWhyItsKeyIsNotWritten(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "app", Password: "pw", Grants: []etcdtest.Grant{etcdtest.ReadWrite("app/data/")}})
	cli := srv.Client(t, etcdtest.As("app", "pw"))
	m := newManager(t, cli, lease.WithNamespace("app"))
	s, err := m.OpenSession(t.Context())
	require.NoError(t, err)
	_, err = etcdtest.Must(kv.New(srv.Client(t, etcdtest.As("root", etcdtest.RootPassword)))).Put(t.Context(), "app/data/k", nil, kv.WithGuard(s))
	require.ErrorIs(t, err, kv.ErrGuard)
	require.ErrorIs(t, err, lease.ErrPermission, "which says why")
	require.NoError(t, s.Err())
}

func TestSession_IsLostIfItsLeaseHoldsForbiddenKey(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, etcdtest.WithFlags("--auth-token-ttl=2"))
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "app", Password: "pw", Grants: []etcdtest.Grant{etcdtest.ReadWrite("app/")}})
	m := newManager(t, srv.Client(t, etcdtest.As("app", "pw")))
	s, err := m.OpenSession(t.Context(), lease.WithTTL(3*time.Second))
	require.NoError(t, err)
	other, err := m.OpenSession(t.Context(), lease.WithTTL(3*time.Second))
	require.NoError(t, err)
	root := srv.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	_, err = root.Put(t.Context(), "secret", "", clientv3.WithLease(s.ID()))
	require.NoError(t, err)
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	select {
	case <-s.Context().Done():
	case <-limit.C:
		info, err := root.Status(t.Context(), srv.Endpoint())
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(info.Version, "3.5."), "etcd %s lets the lease be renewed", info.Version)
		t.Skip("old servers do not check permissions when a lease is renewed")
	}
	require.ErrorIs(t, s.Err(), lease.ErrPermission)
	// The other one goes on, also beyond the life of its first token.
	before := m.Stats().Renewals
	require.Eventually(t, func() bool { return m.Stats().Renewals > before+2 || other.Err() != nil }, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, other.Err())
}

func TestManager_RepeatsGrantAndRevokeWhoseResponsesAreLost(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*clientv3.Config){"over a plain client": func(*clientv3.Config) {}, "over a hardened one": parttest.Harden} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := etcdtest.Start(t)
			direct := srv.Client(t)
			link := srv.Proxy(t)
			cli := etcdtest.NewClient(t, link.Endpoints(), prepare)
			m := newManager(t, cli)
			trials := 2
			if long() {
				trials = 20
			}
			for range trials {
				_, err := cli.Get(t.Context(), "the connection is there")
				require.NoError(t, err)
				link.Blackhole(false, true)
				var s *lease.Session
				done := make(chan error, 1)
				go func() {
					var err error
					s, err = m.OpenSession(t.Context(), lease.WithTTL(time.Minute))
					done <- err
				}()
				require.Eventually(t, func() bool { return leaseCount(t, direct) == 1 }, 10*time.Second, 5*time.Millisecond)
				link.Heal()
				require.NoError(t, <-done)
				assert.Equal(t, 1, leaseCount(t, direct), "and not two")

				link.Blackhole(false, true)
				go func() { done <- m.Revoke(t.Context(), s.ID()) }()
				require.Eventually(t, func() bool { return leaseCount(t, direct) == 0 }, 10*time.Second, 5*time.Millisecond)
				link.Heal()
				link.Cut() // a plain client sends it again by itself
				require.NoError(t, <-done, "gone after an attempt of our own is success")
			}
		})
	}
}

// fakeTracedLease is a Lease of the user's own, such as one that traces.
type fakeTracedLease struct{ clientv3.Lease }

func TestManager_TimeToLiveNeedsNoPermission(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "app", Password: "pw", Grants: []etcdtest.Grant{etcdtest.ReadWrite("app/")}})
	root := srv.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	cli := srv.Client(t, etcdtest.As("app", "pw"))
	cli.Lease = &fakeTracedLease{cli.Lease}
	m := newManager(t, cli)
	s, err := m.OpenSession(t.Context(), lease.WithTTL(time.Minute))
	require.NoError(t, err)
	_, err = root.Put(t.Context(), "other/k", "", clientv3.WithLease(s.ID()))
	require.NoError(t, err)
	_, err = m.TimeToLive(t.Context(), s.ID())
	require.NoError(t, err)
	require.NoError(t, s.Verify(t.Context()))
	_, err = m.Describe(t.Context(), s.ID())
	require.ErrorIs(t, err, lease.ErrPermission, "which tells the keys")
}

func TestManager_DescribeNeedsPermissionForAllKeys(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "app", Password: "pw", Grants: []etcdtest.Grant{etcdtest.ReadWrite("app/")}})
	root := srv.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	granted, err := newManager(t, root).Grant(t.Context(), time.Minute)
	require.NoError(t, err)
	for _, key := range []string{"app/mine", "secret"} {
		_, err = root.Put(t.Context(), key, "", clientv3.WithLease(granted.ID))
		require.NoError(t, err)
	}
	m := newManager(t, srv.Client(t, etcdtest.As("app", "pw")), lease.WithNamespace("app"))
	_, err = m.Describe(t.Context(), granted.ID)
	require.ErrorIs(t, err, lease.ErrPermission)
	info, err := m.TimeToLive(t.Context(), granted.ID)
	require.NoError(t, err)
	assert.Equal(t, time.Minute, info.Granted)
	assert.InDelta(t, time.Minute.Seconds(), info.Remaining.Seconds(), 10)
	assert.Empty(t, info.Keys)
	_, err = m.TimeToLive(t.Context(), 4711)
	require.ErrorIs(t, err, lease.ErrNotFound)
}
