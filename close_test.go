package etcdkit_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

func TestClient_CloseEndsCallsInProgress(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: s.Endpoints()})
	require.NoError(t, err)
	s.Pause()
	defer s.Resume()
	var wg sync.WaitGroup
	var started atomic.Int32
	all := make(chan struct{})
	for i := range 50 {
		wg.Go(func() {
			if started.Add(1) == 50 {
				close(all)
			}
			if i%2 == 0 {
				_, err := c.KV().Get(t.Context(), "k")
				assert.ErrorIs(t, err, etcdkit.ErrClosed)
				return
			}
			_, err := c.KV().Put(t.Context(), "k", nil)
			assert.ErrorIs(t, err, etcdkit.ErrClosed)
		})
	}
	<-all
	began := time.Now()
	require.NoError(t, c.Close())
	wg.Wait()
	assert.Less(t, time.Since(began), 3*time.Second)

	began = time.Now()
	for range 10 {
		_, err = c.KV().Get(t.Context(), "k")
		require.ErrorIs(t, err, etcdkit.ErrClosed)
		_, err = c.KV().Put(t.Context(), "k", nil)
		require.ErrorIs(t, err, etcdkit.ErrClosed)
		assert.True(t, etcdkit.SafeToRetry(err), "it was not sent")
	}
	_, err = c.Health(t.Context())
	require.ErrorIs(t, err, etcdkit.ErrClosed)
	_, err = c.Members(t.Context())
	require.ErrorIs(t, err, etcdkit.ErrClosed)
	assert.Less(t, time.Since(began), time.Second, "calls return at once")
	assert.False(t, c.Diagnose(t.Context()).OK())
}

func TestClient_CloseIsIdempotent(t *testing.T) {
	t.Parallel()
	for range 10 {
		c, err := etcdkit.OpenLazy(etcdkit.Config{Endpoints: append(etcdtest.Endpoints(), "127.0.0.1:1")})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_ = c.Stats()
				assert.NoError(t, c.Close())
			})
		}
		wg.Wait()
		assert.NoError(t, c.Close())
	}
}

func TestClient_CloseIsBoundedWithFrozenServer(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	c, err := etcdkit.Open(t.Context(), etcdkit.Config{
		Endpoints: []string{s.Endpoint(), "http://" + silent(t)}, Username: "app", Password: etcdkit.NewSecret(planted), Namespace: "app",
	})
	require.NoError(t, err)
	watch := c.Raw().Watch(t.Context(), "app/k")
	s.Pause()
	defer s.Resume()
	began := time.Now()
	require.NoError(t, c.Close())
	assert.Less(t, time.Since(began), 5*time.Second)
	for range watch { // until it ends
	}
}

func TestClient_ReturnsErrClosedAfterRawIsClosed(t *testing.T) {
	t.Parallel()
	c := opened(t, etcdkit.Config{Endpoints: etcdtest.Endpoints()})
	require.NoError(t, c.Raw().Close())
	_, err := c.KV().Get(t.Context(), "k")
	require.ErrorIs(t, err, etcdkit.ErrClosed)
}

func TestClient_CloseOfNamespaceDoesNothing(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	c := open(t, etcdkit.Config{Endpoints: etcdtest.Endpoints(), Namespace: dir})
	below := c.Namespace("deep").Namespace("deeper/")
	require.NoError(t, below.Close())
	_, err := below.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err)
	found, err := c.KV().Exists(t.Context(), "deep/deeper/k")
	require.NoError(t, err)
	assert.True(t, found)
	assert.Same(t, c.Raw(), below.Raw())
	assert.Equal(t, dir+"deep/deeper/", below.Diagnose(t.Context()).Namespace)
	_, err = c.Namespace("a//b").KV().Get(t.Context(), "k")
	require.ErrorIs(t, err, etcdkit.ErrInvalid)
}

func TestWrap_CloseKeepsClientOpen(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	var cfg clientv3.Config
	require.NoError(t, etcdkit.Harden(&cfg))
	cli := etcdtest.Client(t, func(c *clientv3.Config) {
		c.MaxUnaryRetries, c.DialOptions, c.Context = cfg.MaxUnaryRetries, cfg.DialOptions, cfg.Context
	})
	c, err := etcdkit.Wrap(cli, etcdkit.WithNamespace(dir))
	require.NoError(t, err)
	_, err = c.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err)
	h, err := c.Health(t.Context())
	require.NoError(t, err)
	require.Len(t, h.Members, 1)
	assert.True(t, h.Members[0].Reachable)
	assert.True(t, c.Diagnose(t.Context()).OK(), "%s", c.Diagnose(t.Context()))
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	_, err = c.Health(t.Context())
	require.ErrorIs(t, err, etcdkit.ErrClosed)
	resp, err := cli.Get(t.Context(), dir+"k")
	require.NoError(t, err)
	assert.Len(t, resp.Kvs, 1)
	assert.Same(t, cli, c.Raw())
}

func TestWrap_RejectsInvalidOptions(t *testing.T) {
	t.Parallel()
	_, err := etcdkit.Wrap(nil, etcdkit.WithNamespace("/"), etcdkit.WithDialOptions(),
		etcdkit.WithCredentials(func(context.Context) (string, string, error) { return "", "", nil }))
	require.ErrorIs(t, err, etcdkit.ErrInvalid)
	for _, part := range []string{"no client", "has no name", "WithDialOptions has no effect", "WithCredentials has no effect"} {
		require.ErrorContains(t, err, part)
	}
}

func TestWrap_AcceptsClientWithoutConnection(t *testing.T) {
	t.Parallel()
	plain, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	cli := clientv3.NewCtxClient(t.Context())
	cli.KV = plain.KV
	_, err := etcdkit.Wrap(cli)
	require.ErrorIs(t, err, etcdkit.ErrInvalid)
	require.ErrorContains(t, err, "no Lease")
	require.ErrorContains(t, err, "no Watcher")
	cli.Lease, cli.Watcher = plain.Lease, plain.Watcher
	c, err := etcdkit.Wrap(cli, etcdkit.WithNamespace(strings.TrimSuffix(dir, "/")))
	require.NoError(t, err)
	_, err = c.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err)
	h, err := c.Health(t.Context())
	require.NoError(t, err, "only the read counts")
	assert.Empty(t, h.Members)
	require.NoError(t, c.Close())
}

func TestHarden_RejectsConflictingConfig(t *testing.T) {
	t.Parallel()
	require.ErrorIs(t, etcdkit.Harden(nil), etcdkit.ErrInvalid)
	err := etcdkit.Harden(&clientv3.Config{PermitWithoutStream: true, DialKeepAliveTime: time.Second})
	require.ErrorIs(t, err, etcdkit.ErrInvalid)
	assert.ErrorContains(t, err, "etcdkit: harden: ")
}

// Others must not be granted a lock while a function still runs under it.
func TestClient_CloseWaitsForFunctionsUnderLocks(t *testing.T) {
	t.Parallel()
	cfg := etcdkit.Config{Endpoints: etcdtest.Endpoints(), Namespace: etcdtest.Prefix(t)}
	c, err := etcdkit.Open(t.Context(), cfg)
	require.NoError(t, err)
	other := open(t, cfg)
	var running atomic.Bool
	entered := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = c.Locks().Mutex("m").Do(t.Context(), func(ctx context.Context, _ *lock.Held) error {
			running.Store(true)
			close(entered)
			<-ctx.Done()
			time.Sleep(2 * time.Second) // it is slow to stop
			running.Store(false)
			return nil
		})
	})
	<-entered
	wg.Go(func() {
		h, err := other.Locks().Mutex("m").Lock(t.Context())
		if assert.NoError(t, err) {
			assert.False(t, running.Load(), "the function runs without the lock")
			assert.NoError(t, h.Release(t.Context()))
		}
	})
	require.NoError(t, c.Close())
	assert.False(t, running.Load())
	wg.Wait()
}
