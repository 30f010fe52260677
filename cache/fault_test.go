package cache_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

// newProxiedParts returns the parts of a client that is connected through a proxy of the shared
// server.
func newProxiedParts(t *testing.T) (p, direct *parttest.Parts, proxy *etcdtest.Proxy) {
	t.Helper()
	dir := etcdtest.Prefix(t)
	proxy = etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	return parttest.New(t, etcdtest.NewClient(t, proxy.Endpoints()), dir), parttest.New(t, etcdtest.Client(t), dir), proxy
}

// minStaleness is the smallest bound allowed, so that tests do not wait for long.
const minStaleness = 2 * time.Second

func TestReplica_ReturnsErrStaleAndRecovers(t *testing.T) {
	t.Parallel()
	p, direct, proxy := newProxiedParts(t)
	mustPut(t, direct.KV(), "dir/a", "1")
	r := openReplica(t, p, "dir", kv.String(), cache.WithMaxStaleness(minStaleness))
	free := openReplica(t, p, "dir", kv.String(), cache.WithMaxStaleness(1<<62))
	late := measureDelay(t)
	proxy.Blackhole(true, true)
	cut := time.Now()
	mustPut(t, direct.KV(), "dir/a", "2")
	for {
		began := time.Now()
		e, err := r.Get(t.Context(), "a")
		if err != nil {
			require.ErrorIs(t, err, cache.ErrStale)
			require.ErrorContains(t, err, "the bound is 2s")
			break
		}
		require.Equal(t, "1", e.Value)
		require.LessOrEqual(t, began.Sub(cut), minStaleness+late(), "an answer that is older than the bound")
		time.Sleep(time.Millisecond)
	}
	assert.Greater(t, r.Age(), minStaleness/2)
	assert.Equal(t, map[string]string{"a": "1"}, values(r), "the last state can still be looked at")
	assert.Positive(t, r.Stats().Stale)
	e, err := free.Get(t.Context(), "a")
	require.NoError(t, err, "without a bound")
	assert.Equal(t, "1", e.Value)
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	_, err = r.GetLinearizable(ctx, "a")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, cache.ErrUnavailable)
	parttest.Eventually(t, func() bool { return r.Err() != nil }, "the watch is known to be down")

	proxy.Heal()
	parttest.Eventually(t, func() bool {
		e, err := r.Get(t.Context(), "a")
		return err == nil && e.Value == "2"
	}, "the replica is current again")
	require.NoError(t, r.Err())
}

func TestCache_StaleReadsGoToEtcd(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	direct := parttest.New(t, etcdtest.Client(t), dir)
	// The watch alone goes through the proxy.
	p := direct.WithWatcher(parttest.New(t, etcdtest.NewClient(t, proxy.Endpoints()), dir).Watcher())
	mustPut(t, direct.KV(), "dir/a", "1")
	c := openCache(t, p, "dir", kv.String(), cache.WithMaxStaleness(minStaleness))
	_, err := c.Get(t.Context(), "a")
	require.NoError(t, err)
	late := measureDelay(t)
	proxy.Blackhole(true, true)
	proxy.Refuse()
	cut := time.Now()
	mustPut(t, direct.KV(), "dir/a", "2")
	for {
		began := time.Now()
		e, err := c.Get(t.Context(), "a")
		require.NoError(t, err)
		if e.Value == "2" {
			break
		}
		require.LessOrEqual(t, began.Sub(cut), minStaleness+late(), "an answer that is older than the bound")
		time.Sleep(time.Millisecond)
	}
	assert.Positive(t, c.Stats().Stale)
	fills := c.Stats().Fills
	for range 100 {
		e, err := c.Get(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, "2", e.Value)
	}
	assert.LessOrEqual(t, c.Stats().Fills, fills+1, "what was read within the bound is good for the bound")
	mustPut(t, direct.KV(), "dir/a", "3")
	e, err := c.GetLinearizable(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, "3", e.Value, "the store is well")
	writeA(t, c, "4")
	e, err = c.Get(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, "4", e.Value)
	proxy.Heal()
	parttest.Eventually(t, func() bool { return c.Err() == nil && c.Age() < minStaleness }, "the watch is back")
	waitForValue(t, c, "a", mustPut(t, direct.KV(), "dir/a", "5"), "5")
}

func TestReplica_SeesOwnWritesWhileWatchIsDown(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	direct := parttest.New(t, etcdtest.Client(t), dir)
	p := direct.WithWatcher(parttest.New(t, etcdtest.NewClient(t, proxy.Endpoints()), dir).Watcher())
	mustPut(t, direct.KV(), "dir/a", "1")
	r := openReplica(t, p, "dir", kv.String())
	proxy.Refuse()
	proxy.Cut()
	parttest.Eventually(t, func() bool { return r.Err() != nil }, "the watch is known to be down")
	for i := range 3 {
		v := "w" + strconv.Itoa(i)
		writeA(t, r, v)
		e, err := r.Get(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, v, e.Value)
	}
	writeA(t, r, "")
	_, err := r.Get(t.Context(), "a")
	require.ErrorIs(t, err, kv.ErrNotFound)
	mustPut(t, direct.KV(), "dir/a", "elsewhere")
	e, err := r.Get(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, "elsewhere", e.Value)
	proxy.Heal()
	parttest.Eventually(t, func() bool { return values(r)["a"] == "elsewhere" }, "the replica has caught up")
	fills := r.Stats().Fills
	parttest.Eventually(t, func() bool {
		before := r.Stats().Fills
		_, err := r.Get(t.Context(), "a")
		return err == nil && r.Stats().Fills == before
	}, "reads come from memory again")
	assert.GreaterOrEqual(t, r.Stats().Fills, fills)
}

func TestCache_FrozenServerDoesNotBlockHits(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	p := parttest.New(t, server.Client(t), "app")
	mustPut(t, p.KV(), "dir/a", "1")
	r := openReplica(t, p, "dir", kv.String(), cache.WithMaxStaleness(minStaleness))
	c := openCache(t, p, "dir", kv.String(), cache.WithMaxStaleness(minStaleness))
	_, err := c.Get(t.Context(), "a")
	require.NoError(t, err)
	server.Pause()
	defer server.Resume()
	_, err = r.Get(t.Context(), "a")
	require.NoError(t, err, "within the bound")
	_, err = c.Get(t.Context(), "a")
	require.NoError(t, err)
	parttest.Eventually(t, func() bool { _, err := r.Get(t.Context(), "a"); return err != nil }, "the replica is too old")
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	parttest.Eventually(t, func() bool {
		_, err := c.Get(ctx, "a")
		return err != nil
	}, "the cache goes to etcd, which does not answer")
	_, err = c.Get(ctx, "a")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	ctx, stop = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	_, err = c.Get(ctx, "a")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, cache.ErrUnavailable)
	began := time.Now()
	ctx, stop = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	_, err = cache.OpenReplica(ctx, p, "other", kv.String())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, `cache: open replica "other": etcd unavailable: context deadline exceeded`)
	require.NotContains(t, err.Error(), "\n")
	assert.Less(t, time.Since(began), 5*time.Second)
	server.Resume()
	parttest.Eventually(t, func() bool {
		_, err := r.Get(t.Context(), "a")
		_, other := c.Get(t.Context(), "a")
		return err == nil && other == nil
	}, "all is well again")
}

func TestOpen_ErrorNamesEndpointAndCause(t *testing.T) {
	t.Parallel()
	p, _, proxy := newProxiedParts(t)
	proxy.Refuse()
	proxy.Cut()
	where := strings.TrimPrefix(proxy.Endpoint(), "http://")
	for _, within := range []time.Duration{300 * time.Millisecond, 2 * time.Second} {
		for name, open := range map[string]func(ctx context.Context) error{
			"a replica": func(ctx context.Context) error { _, err := cache.OpenReplica(ctx, p, "dir", kv.String()); return err },
			"a cache":   func(ctx context.Context) error { _, err := cache.Open(ctx, p, "dir", kv.String()); return err },
		} {
			t.Run(fmt.Sprint(name, " within ", within), func(t *testing.T) {
				t.Parallel()
				ctx, stop := context.WithTimeout(t.Context(), within)
				defer stop()
				err := open(ctx)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorIs(t, err, cache.ErrUnavailable)
				assert.ErrorContains(t, err, where)
				if within > time.Second { // time enough to find out
					assert.ErrorContains(t, err, "refused")
				}
				ctx, stop = context.WithCancel(t.Context())
				defer time.AfterFunc(within, stop).Stop()
				err = open(ctx)
				require.ErrorIs(t, err, context.Canceled)
				require.NotErrorIs(t, err, cache.ErrUnavailable, "the caller's wish is no outage")
			})
		}
	}
}

func TestOpen_ReturnsPermissionErrorAtOnce(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	proxy.Blackhole(true, true) // the watch says nothing
	cli := etcdtest.Client(t)
	installFakeKV(cli).answer = func(context.Context, clientv3.Op) (clientv3.OpResponse, error) {
		return clientv3.OpResponse{}, rpctypes.ErrPermissionDenied
	}
	p := parttest.New(t, cli, dir).WithWatcher(parttest.New(t, etcdtest.NewClient(t, proxy.Endpoints()), dir).Watcher())
	ctx, stop := context.WithTimeout(t.Context(), parttest.Timeout)
	defer stop()
	_, err := cache.OpenReplica(ctx, p, "dir", kv.String())
	require.ErrorIs(t, err, cache.ErrPermission)
	require.NoError(t, ctx.Err())
}

func TestReplica_DoesNotShowKeyDeletedByThisProcess(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	direct := parttest.New(t, etcdtest.Client(t), dir)
	p := direct.WithWatcher(parttest.New(t, etcdtest.NewClient(t, proxy.Endpoints()), dir).Watcher())
	at := map[string]int64{}
	for _, key := range []string{"deleted", "replaced"} {
		at[key] = mustPut(t, direct.KV(), "dir/"+key, "1")
	}
	r := openReplica(t, p, "dir", kv.String())
	proxy.Hold(false, true) // the watch is well, as far as it knows
	for key := range at {
		mustDelete(t, direct.KV(), "dir/"+key)
	}
	rev, err := r.Store().Delete(t.Context(), "deleted")
	require.NoError(t, err)
	require.Zero(t, rev, "somebody else has deleted it")
	_, err = r.Store().Replace(t.Context(), "replaced", "2", at["replaced"])
	require.ErrorIs(t, err, kv.ErrConflict)
	for key := range at {
		_, err = r.Get(t.Context(), key)
		require.ErrorIs(t, err, kv.ErrNotFound, key)
	}
	proxy.Heal()
	mustPut(t, direct.KV(), "elsewhere", "x") // the dir stays as it is
	parttest.Eventually(t, func() bool {
		before := r.Stats().Fills
		for key := range at {
			if _, err := r.Get(t.Context(), key); !assert.ErrorIs(t, err, kv.ErrNotFound) {
				return true
			}
		}
		return r.Stats().Fills == before
	}, "reads come from memory again")
}

func TestCache_RecoversFromCompaction(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	proxy := server.Proxy(t)
	direct := parttest.New(t, server.Client(t), "app")
	p := parttest.New(t, etcdtest.NewClient(t, proxy.Endpoints()), "app")
	mustPut(t, direct.KV(), "dir/a", "old")
	mustPut(t, direct.KV(), "dir/gone", "old")
	r := openReplica(t, p, "dir", kv.String())
	c := openCache(t, p, "dir", kv.String())
	for _, key := range []string{"a", "gone"} {
		_, err := c.Get(t.Context(), key)
		require.NoError(t, err)
	}
	_, err := c.Get(t.Context(), "new")
	require.ErrorIs(t, err, kv.ErrNotFound)
	received := make(chan cache.Change[string], 16)
	r.Follow(func(c cache.Change[string]) { received <- c })
	<-received
	<-received
	for range 2 { // the second time, the history is another one
		proxy.Refuse()
		proxy.Cut()
		mustPut(t, direct.KV(), "dir/a", "new")
		mustDelete(t, direct.KV(), "dir/gone")
		rev := mustPut(t, direct.KV(), "dir/new", "new")
		server.Compact(rev)
		proxy.Heal()
		parttest.Eventually(t, func() bool {
			return assert.ObjectsAreEqual(map[string]string{"a": "new", "new": "new"}, values(r))
		}, "the replica is current")
		parttest.Eventually(t, func() bool {
			a, errA := c.Get(t.Context(), "a")
			_, errGone := c.Get(t.Context(), "gone")
			n, errNew := c.Get(t.Context(), "new")
			return errA == nil && a.Value == "new" && isNotFound(errGone) && errNew == nil && n.Value == "new"
		}, "the cache is current")
		server.Wipe()
		mustPut(t, direct.KV(), "dir/a", "wiped")
		mustPut(t, direct.KV(), "dir/gone", "again")
		parttest.Eventually(t, func() bool {
			return assert.ObjectsAreEqual(map[string]string{"a": "wiped", "gone": "again"}, values(r))
		}, "the replica is of the new history")
		parttest.Eventually(t, func() bool {
			a, errA := c.Get(t.Context(), "a")
			_, errNew := c.Get(t.Context(), "new")
			return errA == nil && a.Value == "wiped" && isNotFound(errNew)
		}, "the cache is of the new history")
		rev = mustPut(t, direct.KV(), "dir/a", "old")
		require.NoError(t, r.WaitRevision(t.Context(), rev))
		waitForValue(t, c, "a", rev, "old")
	}
	assert.Positive(t, c.Stats().Restarts, "a watch of events ends with its history")
	state := map[string]string{"a": "old", "gone": "old"}
	for {
		ch := <-received
		if ch.New.ModRevision == 0 {
			delete(state, ch.New.Key)
		} else {
			state[ch.New.Key] = ch.New.Value
		}
		if len(received) == 0 && assert.ObjectsAreEqual(values(r), state) {
			break
		}
	}
}

func TestCache_SeesOwnWritesAfterClusterWasWiped(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	proxy := server.Proxy(t)
	direct := parttest.New(t, server.Client(t), "app")
	p := direct.WithWatcher(parttest.New(t, etcdtest.NewClient(t, proxy.Endpoints()), "app").Watcher())
	for range 20 {
		mustPut(t, direct.KV(), "dir/a", "old")
	}
	c := openCache(t, p, "dir", kv.String(), cache.WithMaxStaleness(time.Hour))
	_, err := c.Get(t.Context(), "a")
	require.NoError(t, err)
	proxy.Blackhole(true, true) // the watch does not know yet
	server.Wipe()
	writeA(t, c, "new")
	e, err := c.Get(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, "new", e.Value)
}

func TestCache_GrowsStaleAfterWatcherCloses(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", "1")
	r := openReplica(t, p, "dir", kv.String(), cache.WithMaxStaleness(minStaleness))
	c := openCache(t, p, "dir", kv.String(), cache.WithMaxStaleness(minStaleness))
	require.NoError(t, p.Watcher().Close())
	parttest.Eventually(t, func() bool { _, err := r.Get(t.Context(), "a"); return err != nil }, "the replica is too old")
	_, err := r.Get(t.Context(), "a")
	require.ErrorIs(t, err, cache.ErrStale)
	require.ErrorIs(t, r.Err(), cache.ErrClosed)
	require.ErrorIs(t, r.WaitRevision(t.Context(), 1<<50), cache.ErrClosed)
	rev := mustPut(t, p.KV(), "dir/a", "2")
	e, err := c.GetAtLeast(t.Context(), "a", rev)
	require.NoError(t, err)
	assert.Equal(t, "2", e.Value)
	_, err = cache.Open(t.Context(), p, "dir", kv.String())
	require.ErrorIs(t, err, cache.ErrClosed)
}

func TestCache_RecoversFromRevokedPermission(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	proxy := server.Proxy(t)
	const role, from, end = "reader", "app/", "app0"
	etcdtest.EnableAuth(t, server, etcdtest.User{Name: role, Password: "secret", Grants: []etcdtest.Grant{etcdtest.ReadWrite(from)}})
	root := server.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	direct := parttest.New(t, root, "app")
	p := parttest.New(t, etcdtest.NewClient(t, proxy.Endpoints(), etcdtest.As(role, "secret")), "app")
	mustPut(t, direct.KV(), "dir/a", "1")
	mustPut(t, direct.KV(), "dir/gone", "1")
	r := openReplica(t, p, "dir", kv.String())
	c := openCache(t, p, "dir", kv.String())
	for _, key := range []string{"a", "gone"} {
		_, err := c.Get(t.Context(), key)
		require.NoError(t, err)
	}
	_, err := root.RoleRevokePermission(t.Context(), role, from, end)
	require.NoError(t, err)
	proxy.Cut()
	parttest.Eventually(t, func() bool {
		return errors.Is(r.Err(), cache.ErrPermission) && errors.Is(c.Err(), cache.ErrPermission)
	}, "the watch is refused")
	_, err = cache.OpenReplica(t.Context(), p, "dir", kv.String())
	require.ErrorIs(t, err, cache.ErrPermission)
	mustPut(t, direct.KV(), "dir/a", "2")
	mustDelete(t, direct.KV(), "dir/gone")
	rev := mustPut(t, direct.KV(), "dir/new", "1")
	_, err = root.RoleGrantPermission(t.Context(), role, from, end, clientv3.PermissionType(clientv3.PermReadWrite))
	require.NoError(t, err)
	require.NoError(t, r.WaitRevision(t.Context(), rev))
	assert.Equal(t, map[string]string{"a": "2", "new": "1"}, values(r))
	parttest.Eventually(t, func() bool { return c.Err() == nil }, "the cache is well")
	waitForValue(t, c, "a", rev-2, "2")
	_, err = c.Get(t.Context(), "gone")
	require.ErrorIs(t, err, kv.ErrNotFound)
	assert.Positive(t, r.Stats().Restarts)
	assert.Positive(t, c.Stats().Restarts)
}

func TestReplica_DetectsMemberWithoutLeader(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.StartCluster(t, 3)
	p := parttest.New(t, cluster.Members[0].Client(t), "app")
	mustPut(t, p.KV(), "dir/a", "1")
	r := openReplica(t, p, "dir", kv.String())
	c := openCache(t, p, "dir", kv.String())
	cluster.Members[1].Pause()
	cluster.Members[2].Pause()
	cut := time.Now()
	parttest.Eventually(t, func() bool { return r.Err() != nil && c.Err() != nil }, "the replica and the cache know that they may miss changes")
	t.Logf("noticed after %v", time.Since(cut))
	assert.Positive(t, r.Age())
	cluster.Members[1].Resume()
	cluster.Members[2].Resume()
	parttest.Eventually(t, func() bool { return r.Err() == nil && c.Err() == nil }, "all is well again")
}
