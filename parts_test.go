package etcdkit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	testkit "github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

func TestClient_PartsUseNamespace(t *testing.T) {
	t.Parallel()
	direct, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	c := opened(t, etcdkit.Config{Endpoints: etcdtest.Endpoints(), Namespace: dir})
	assert.Same(t, c.Watcher(), c.Watcher())
	assert.Same(t, c.Leases(), c.Leases())
	for name, tt := range map[string]struct {
		client *etcdkit.Client
		below  string
	}{
		"the client's own":  {c, dir},
		"one made from it":  {c.Namespace("sub"), dir + "sub/"},
		"one made from one": {c.Namespace("sub").Namespace("x"), dir + "sub/x/"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := tt.client.Leases().OpenKey(t.Context(), "alive", []byte("yes"))
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, key.Close()) })
			got, err := direct.Get(t.Context(), tt.below+"alive")
			require.NoError(t, err)
			require.Len(t, got.Kvs, 1)
			assert.NotZero(t, got.Kvs[0].Lease)
			for b, err := range tt.client.Watcher().Watch(t.Context(), watch.Key("alive"), watch.WithSnapshot()) {
				require.NoError(t, err)
				require.Len(t, b.Events, 1)
				assert.Equal(t, "alive", b.Events[0].Key)
				break
			}
		})
	}
}

func TestConfig_SessionTTLIsUsed(t *testing.T) {
	t.Parallel()
	c := opened(t, etcdkit.Config{Endpoints: etcdtest.Endpoints(), SessionTTL: etcdkit.Duration(20 * time.Second)})
	one, err := c.Leases().Shared(t.Context())
	require.NoError(t, err)
	other, err := c.Namespace("other").Leases().Shared(t.Context())
	require.NoError(t, err)
	assert.Equal(t, one.ID(), other.ID(), "a client has one session")
	info, err := c.Leases().Describe(t.Context(), one.ID())
	require.NoError(t, err)
	assert.Equal(t, 20*time.Second, info.Granted)
}

func TestClient_CloseRemovesKeysSessionsAndWatches(t *testing.T) {
	t.Parallel()
	direct, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	wrapped := etcdtest.NewClient(t, etcdtest.Endpoints())
	overWrapped, err := etcdkit.Wrap(wrapped, etcdkit.WithNamespace(dir))
	require.NoError(t, err)
	for name, c := range map[string]*etcdkit.Client{
		"opened":  opened(t, etcdkit.Config{Endpoints: etcdtest.Endpoints(), Namespace: dir}),
		"wrapped": overWrapped,
	} {
		s, err := c.Leases().OpenSession(t.Context())
		require.NoError(t, err, name)
		_, err = c.Leases().OpenKey(t.Context(), "key", nil)
		require.NoError(t, err, name)
		sub, err := c.Watcher().Subscribe(watch.Prefix(""), func(context.Context, watch.Batch) error { return nil })
		require.NoError(t, err, name)
		<-sub.Ready()
		require.Eventually(t, func() bool { return c.Stats().Watches.Active == 2 }, 10*time.Second, time.Millisecond, "with that of the kept key")
		assert.Equal(t, 1, c.Stats().Leases.Keys, name)

		require.NoError(t, c.Namespace("x").Close())
		require.NoError(t, s.Err(), "Close of a derived client does nothing")
		require.NoError(t, c.Close(), name)
		<-sub.Done()
		require.ErrorIs(t, sub.Err(), etcdkit.ErrClosed, name)
		require.ErrorIs(t, context.Cause(s.Context()), etcdkit.ErrClosed, name)
		left, err := direct.TimeToLive(t.Context(), s.ID())
		require.NoError(t, err, name)
		assert.EqualValues(t, -1, left.TTL, "%s: the lease is gone", name)
		got, err := direct.Get(t.Context(), dir, clientv3.WithPrefix())
		require.NoError(t, err, name)
		assert.Empty(t, got.Kvs, name)
	}
	_, err = wrapped.Get(t.Context(), dir)
	require.NoError(t, err, "the wrapped client stays open")
}

func TestClient_LocksAreReleasedByClose(t *testing.T) {
	t.Parallel()
	direct, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	waited := make(chan string, 10)
	c := opened(t, etcdkit.Config{Endpoints: etcdtest.Endpoints(), Namespace: dir}, etcdkit.WithObserver(etcdkit.Observer{
		Operation: func(_ context.Context, op etcdkit.Operation) (context.Context, func(etcdkit.OperationResult)) {
			if op.Package == "lock" && op.Name == "wait" {
				waited <- op.Target
			}
			return nil, nil
		},
	}))
	assert.Same(t, c.Locks(), c.Locks())
	assert.Same(t, c.Namespace("sub").Locks(), c.Namespace("sub/").Locks(), "a namespace has one locker")
	assert.NotSame(t, c.Locks(), c.Namespace("sub").Locks())
	_, err := c.Namespace("a//b").Locks().Mutex("m").Lock(t.Context())
	require.ErrorIs(t, err, etcdkit.ErrInvalid)

	one, err := c.Locks().Mutex("m").Lock(t.Context())
	require.NoError(t, err)
	other, err := c.Namespace("sub").Locks().Mutex("m").Lock(t.Context())
	require.NoError(t, err, "another namespace has another lock")
	assert.Equal(t, []string{"m", "m"}, []string{<-waited, <-waited})
	for _, below := range []string{"", "sub/"} {
		got, err := direct.Get(t.Context(), dir+below+"locks/m/", clientv3.WithPrefix())
		require.NoError(t, err)
		assert.Len(t, got.Kvs, 1, below)
	}
	require.NoError(t, c.Close())
	for _, held := range []*lock.Held{one, other} {
		require.Error(t, held.Err())
		require.Error(t, held.Context().Err())
	}
	got, err := direct.Get(t.Context(), dir, clientv3.WithPrefix())
	require.NoError(t, err)
	assert.Empty(t, got.Kvs)
	_, err = c.Locks().Mutex("m").Lock(t.Context())
	require.ErrorIs(t, err, etcdkit.ErrClosed)
	_, err = c.Namespace("later").Locks().Mutex("m").Lock(t.Context())
	require.ErrorIs(t, err, etcdkit.ErrClosed)
}

func TestClient_LocksForgetsLockersThatNothingUses(t *testing.T) {
	t.Parallel()
	direct, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	c := opened(t, etcdkit.Config{Endpoints: etcdtest.Endpoints(), Namespace: dir})
	held, err := c.Namespace("kept").Locks().Mutex("m").Lock(t.Context())
	require.NoError(t, err)
	for i := range 1000 {
		c.Namespace(fmt.Sprintf("tenant-%d", i)).Locks()
	}
	require.Eventually(t, func() bool {
		runtime.GC()
		return etcdkit.Lockers(c) == 1
	}, 20*time.Second, time.Millisecond, "the one whose lock is held")
	require.NoError(t, held.Err())
	require.NoError(t, c.Close())
	require.ErrorIs(t, context.Cause(held.Context()), etcdkit.ErrClosed)
	got, err := direct.Get(t.Context(), dir, clientv3.WithPrefix())
	require.NoError(t, err)
	assert.Empty(t, got.Kvs)
}

func TestObserver_ReceivesCacheLookups(t *testing.T) {
	t.Parallel()
	var told []string
	c := testkit.Open(t, etcdkit.WithObserver(etcdkit.Observer{
		CacheLookup: func(_ context.Context, dir string, hit bool) { told = append(told, fmt.Sprint(dir, hit)) },
	}))
	users, err := cache.Open(t.Context(), c, "users", kv.JSON[int]())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, users.Close()) })
	_, err = users.Store().Put(t.Context(), "ada", 1)
	require.NoError(t, err)
	for range 2 {
		_, err = users.Get(t.Context(), "ada")
		require.NoError(t, err)
	}
	assert.Equal(t, []string{"usersfalse", "userstrue"}, told)
}

func TestClient_ConfigStartsFromFallbackFile(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	proxy := s.Proxy(t)
	proxy.Refuse()
	file := filepath.Join(t.TempDir(), "fallback.yaml")
	require.NoError(t, os.WriteFile(file, []byte("limit: 7\n"), 0o600))
	c := opened(t, etcdkit.Config{Endpoints: proxy.Endpoints()})
	ctx, stop := context.WithTimeout(t.Context(), 4*time.Second)
	defer stop()
	source, err := config.Open(ctx, c, "config", config.WithFallbackFile(file))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, source.Close()) })
	limit, err := config.Bind(source, "limit", config.WithDefault(1))
	require.NoError(t, err)
	assert.Equal(t, 7, limit.Load())
	assert.Equal(t, config.FallbackFile, source.Status().Origin)

	_, err = s.Client(t).Put(t.Context(), "config/limit", "9")
	require.NoError(t, err)
	proxy.Accept()
	require.Eventually(t, func() bool { return limit.Load() == 9 && source.Status().Origin == config.Live }, 30*time.Second, time.Millisecond)
}

func TestClient_CloseIsBoundedWithHeldLock(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: s.Endpoints()})
	require.NoError(t, err)
	held, err := c.Locks().Mutex("m").Lock(t.Context())
	require.NoError(t, err)
	sub, err := c.Watcher().Subscribe(watch.Prefix(""), func(context.Context, watch.Batch) error { return nil })
	require.NoError(t, err)
	<-sub.Ready()
	s.Pause()
	defer s.Resume()
	began := time.Now()
	err = c.Close()
	assert.Less(t, time.Since(began), 10*time.Second)
	t.Logf("closed in %v", time.Since(began))
	require.ErrorContains(t, err, "lease: close")
	require.Error(t, held.Err())
	assert.Equal(t, err, c.Close(), "the same result every time")
}

func TestObserver_ReceivesLossesAndResyncs(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	proxy := s.Proxy(t)
	lost, resynced := make(chan error, 1), make(chan int, 1)
	c := opened(t, etcdkit.Config{Endpoints: proxy.Endpoints()}, etcdkit.WithObserver(etcdkit.Observer{
		LeaseLost:   func(_ context.Context, cause error) { lost <- cause },
		WatchResync: func(_ context.Context, _ string, folded int) { resynced <- folded },
	}))
	direct := s.Client(t)
	session, err := c.Leases().OpenSession(t.Context())
	require.NoError(t, err)
	sub, err := c.Watcher().Subscribe(watch.Prefix("w/"), func(context.Context, watch.Batch) error { return nil }, watch.WithSnapshot())
	require.NoError(t, err)
	<-sub.Ready()

	proxy.Refuse()
	proxy.Cut()
	var rev int64
	for range 3 {
		put, err := direct.Put(t.Context(), "w/k", "v")
		require.NoError(t, err)
		rev = put.Header.Revision
	}
	_, err = direct.Compact(t.Context(), rev)
	require.NoError(t, err)
	_, err = direct.Revoke(t.Context(), session.ID())
	require.NoError(t, err)
	proxy.Accept()

	assert.Equal(t, 1, <-resynced, "one key has changed")
	cause := <-lost
	require.ErrorIs(t, cause, lease.ErrNotFound)
	require.True(t, errors.Is(context.Cause(session.Context()), lease.ErrNotFound))
}
