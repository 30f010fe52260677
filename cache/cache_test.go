package cache_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
)

// All of them are readers.
var (
	_ cache.Reader[user] = kv.Typed[user]{}
	_ cache.Reader[user] = (*cache.Cache[user])(nil)
	_ cache.Reader[user] = (*cache.Replica[user])(nil)
)

func TestCache_MissReadsEtcdAndHitDoesNot(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	var hits, misses, fills atomic.Int64
	sc := scopetest.New(scope.Hooks{
		CacheLookup: func(_ context.Context, dir string, hit bool) {
			assert.Equal(t, "users", dir)
			if hit {
				hits.Add(1)
			} else {
				misses.Add(1)
			}
		},
		Operation: func(_ context.Context, op scope.Operation) (context.Context, func(scope.Result)) {
			if op != (scope.Operation{Package: "cache", Name: "fill", Target: "users/"}) {
				return nil, nil
			}
			return nil, func(r scope.Result) {
				fills.Add(1)
				assert.NoError(t, r.Err)
				assert.Positive(t, r.Revision)
				assert.Equal(t, 1, r.Attempts)
			}
		},
	})
	p := parttest.New(t, count.Client(t), etcdtest.Prefix(t))
	p = p.WithStore(etcdtest.Must(kv.New(p.Raw, kv.WithNamespace(p.Dir), scope.Option[kv.Option](sc))))
	rev := mustPut(t, p.KV(), "users/ada", `{"Name":"Ada"}`)
	c := openCache(t, p, "users", kv.JSON[user]())
	count.Reset()
	for range 3 {
		e, err := c.Get(t.Context(), "ada")
		require.NoError(t, err)
		assert.Equal(t, kv.Entry[user]{Key: "ada", Value: user{Name: "Ada"}, CreateRevision: rev, ModRevision: rev, Version: 1}, e)
		_, err = c.Get(t.Context(), "nobody")
		require.ErrorIs(t, err, kv.ErrNotFound)
		require.EqualError(t, err, `cache: get "users/nobody": key not found`)
	}
	assert.Equal(t, 2, count.Total()-count.CountOnlyReads(), "%v", count.Counts())
	assert.Equal(t, cache.Stats{Hits: 4, Misses: 2, Fills: 2, Entries: 2}, c.Stats())
	assert.Equal(t, int64(4), hits.Load())
	assert.Equal(t, int64(2), misses.Load())
	assert.Equal(t, int64(2), fills.Load())
	_, err := c.Get(t.Context(), "")
	require.ErrorIs(t, err, cache.ErrInvalid)
	assert.Equal(t, 2, count.Total()-count.CountOnlyReads())
}

// keyReads returns how often a cache has read a value from etcd.
func keyReads(c *etcdtest.RPCCounter) int { return c.Count("KV/Txn") }

// waitForValue waits until a cache returns value with at least revision rev.
func waitForValue[T any](tb testing.TB, c *cache.Cache[T], key string, rev int64, value T) {
	tb.Helper()
	parttest.Eventually(tb, func() bool {
		e, err := c.Get(tb.Context(), key)
		return err == nil && e.ModRevision >= rev && assert.ObjectsAreEqual(value, e.Value)
	}, "a change arrives")
}

func TestCache_WatchUpdatesEntries(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	p := parttest.New(t, count.Client(t), etcdtest.Prefix(t))
	mustPut(t, p.KV(), "dir/a", "1")
	c := openCache(t, p, "dir", kv.String())
	_, err := c.Get(t.Context(), "a")
	require.NoError(t, err)
	_, err = c.Get(t.Context(), "b")
	require.ErrorIs(t, err, kv.ErrNotFound)
	rev := mustPut(t, p.KV(), "dir/a", "2")
	revB := mustPut(t, p.KV(), "dir/b", "1")
	before := keyReads(count)
	waitForValue(t, c, "a", rev, "2")
	waitForValue(t, c, "b", revB, "1")
	mustDelete(t, p.KV(), "dir/a")
	parttest.Eventually(t, func() bool {
		_, err := c.Get(t.Context(), "a")
		return err != nil
	}, "the delete arrives")
	assert.Equal(t, before, keyReads(count), "a change needs no read")
	assert.Equal(t, uint64(3), c.Stats().Invalidations)
	mustPut(t, p.KV(), "dir/unknown", "1")
	assert.Equal(t, 2, c.Stats().Entries, "a key that was not read is not cached")
}

func TestCache_ConcurrentMissesShareOneRead(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t)
	kvs := installFakeKV(cli)
	const callers = 256
	arrived := make(chan struct{})
	kvs.afterRead = func(op clientv3.Op) {
		if isKeyRead(op) {
			<-arrived
		}
	}
	p := parttest.New(t, cli, etcdtest.Prefix(t))
	mustPut(t, p.KV(), "dir/a", "1")
	kvs.calls.Store(0)
	c := openCache(t, p, "dir", kv.String())
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			e, err := c.Get(t.Context(), "a")
			assert.NoError(t, err)
			assert.Equal(t, "1", e.Value)
		})
	}
	parttest.Eventually(t, func() bool { return c.Stats().Misses == callers }, "all have missed")
	close(arrived)
	wg.Wait()
	assert.Equal(t, int64(1), kvs.calls.Load())
	assert.Equal(t, uint64(1), c.Stats().Fills)
}

func TestCache_CanceledCallerDoesNotFailOthers(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t)
	kvs := installFakeKV(cli)
	release := make(chan struct{})
	kvs.afterRead = func(op clientv3.Op) {
		if isKeyRead(op) {
			<-release
		}
	}
	p := parttest.New(t, cli, etcdtest.Prefix(t))
	mustPut(t, p.KV(), "dir/a", "1")
	c := openCache(t, p, "dir", kv.String())
	ctx, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := c.Get(ctx, "a")
		assert.ErrorIs(t, err, context.Canceled)
	})
	parttest.Eventually(t, func() bool { return c.Stats().Fills == 1 }, "the first has missed")
	got := make(chan error, 1)
	wg.Go(func() {
		_, err := c.Get(t.Context(), "a")
		got <- err
	})
	parttest.Eventually(t, func() bool { return c.Stats().Misses == 2 }, "the second has missed")
	leave()
	close(release)
	require.NoError(t, <-got)
	wg.Wait()
	assert.Equal(t, uint64(1), c.Stats().Fills)

	release = make(chan struct{}) // nobody reads it now
	ctx, leave = context.WithCancel(t.Context())
	wg.Go(func() {
		_, err := c.Get(ctx, "b")
		assert.ErrorIs(t, err, context.Canceled)
	})
	parttest.Eventually(t, func() bool { return c.Stats().Fills == 2 }, "the third has missed")
	leave()
	wg.Wait()
	close(release)
}

// A read that was answered before a change but whose response arrives after it must not be cached.
func TestCache_SlowFillIsNotKeptAfterInvalidation(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"by the watch", "by a write of this process", "by hand", "a creation", "a delete"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			cli := etcdtest.Client(t)
			kvs := installFakeKV(cli)
			answered, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			kvs.afterRead = func(op clientv3.Op) {
				if isKeyRead(op) {
					once.Do(func() { // the first alone
						close(answered)
						<-release
					})
				}
			}
			p := parttest.New(t, cli, etcdtest.Prefix(t))
			if how != "a creation" {
				mustPut(t, p.KV(), "dir/a", "old")
			}
			c := openCache(t, p, "dir", kv.String())
			slow := make(chan string, 1)
			go func() {
				e, _ := c.Get(t.Context(), "a")
				slow <- e.Value
			}()
			<-answered // with what there was
			want := "new"
			switch how {
			case "by a write of this process":
				writeA(t, c, "new")
			case "by hand":
				mustPut(t, p.KV(), "dir/a", "new")
				c.Invalidate("a")
			case "a delete":
				want = ""
				waitForRevision(t, c, mustDelete(t, p.KV(), "dir/a"))
			default:
				waitForRevision(t, c, mustPut(t, p.KV(), "dir/a", "new"))
			}
			fast := make(chan string, 1)
			go func() { // has come after the change
				e, _ := c.Get(t.Context(), "a")
				fast <- e.Value
			}()
			parttest.Eventually(t, func() bool { return c.Stats().Misses >= 2 }, "the second caller")
			close(release)
			<-slow
			assert.Equal(t, want, <-fast)
			for range 10 {
				e, _ := c.Get(t.Context(), "a")
				require.Equal(t, want, e.Value)
			}
		})
	}
}

func TestCache_FailedConditionShowsCurrentValue(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	c := openCache(t, p, "dir", kv.String())
	r := openReplica(t, p, "dir", kv.String())
	for i := range 50 {
		rev := mustPut(t, p.KV(), "dir/a", strconv.Itoa(i))
		for _, m := range []readerWithStore[string]{c, r} {
			_, err := m.Store().Replace(t.Context(), "a", "x", rev-1)
			require.ErrorIs(t, err, kv.ErrConflict)
			e, err := m.Get(t.Context(), "a")
			require.NoError(t, err)
			require.Equal(t, strconv.Itoa(i), e.Value)
		}
	}
}

// waitForRevision waits until the watch has delivered everything up to rev.
func waitForRevision[T any](tb testing.TB, c *cache.Cache[T], rev int64) {
	tb.Helper()
	require.NoError(tb, c.Passed(tb.Context(), rev))
}

// Fills, changes and evictions of a few keys run concurrently, for the race detector and for the
// order of revisions.
func TestCache_ReadsNeverGoBackInTime(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	c := openCache(t, p, "dir", kv.String(), cache.WithMaxEntries(3))
	done := make(chan struct{})
	var wg sync.WaitGroup
	const keys = 5
	for i := range keys {
		mustPut(t, p.KV(), "dir/k"+strconv.Itoa(i), "0")
	}
	var reads atomic.Int64
	for g := range 4 {
		wg.Go(func() {
			var last [keys]int64
			for i := g; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				k := i % keys
				if i%97 == 0 {
					c.Invalidate("k" + strconv.Itoa(k))
				}
				e, err := c.Get(t.Context(), "k"+strconv.Itoa(k))
				if !assert.NoError(t, err) {
					return
				}
				assert.GreaterOrEqual(t, e.ModRevision, last[k])
				last[k] = e.ModRevision
				reads.Add(1)
			}
		})
	}
	for i := range 600 {
		mustPut(t, p.KV(), fmt.Sprintf("dir/k%d", i%keys), strconv.Itoa(i))
	}
	close(done)
	wg.Wait()
	assert.Positive(t, reads.Load())
}

func TestCache_SeesItsOwnWrites(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	c := openCache(t, p, "dir", kv.String())
	r := openReplica(t, p, "dir", kv.String())
	for i := range 100 {
		for _, m := range []readerWithStore[string]{c, r} {
			_, _ = c.Get(t.Context(), "a") // so that it is in memory
			v := strconv.Itoa(i)
			if i%5 == 4 {
				v = ""
			}
			writeA(t, m, v)
			e, err := m.Get(t.Context(), "a")
			if v == "" {
				require.ErrorIs(t, err, kv.ErrNotFound)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, v, e.Value)
		}
	}
	for i := range 20 {
		for _, m := range []readerWithStore[string]{c, r} {
			want, err := m.Store().Update(t.Context(), "b", func(v *string) error { *v += strconv.Itoa(i); return nil }, kv.WithUpsert())
			require.NoError(t, err)
			e, err := m.Get(t.Context(), "b")
			require.NoError(t, err)
			require.Equal(t, want, e)
		}
	}
}

func TestCache_EvictedKeyIsReadAgain(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	const keys = 50
	for i := range keys {
		mustPut(t, p.KV(), "dir/"+strconv.Itoa(i), "v"+strconv.Itoa(i))
	}
	c := openCache(t, p, "dir", kv.String(), cache.WithMaxEntries(10))
	for range 2 {
		for i := range keys {
			e, err := c.Get(t.Context(), strconv.Itoa(i))
			require.NoError(t, err)
			assert.Equal(t, "v"+strconv.Itoa(i), e.Value)
		}
	}
	s := c.Stats()
	assert.Equal(t, 10, s.Entries)
	assert.Equal(t, uint64(2*keys-10), s.Evictions)
}

func TestCache_EntryExpiresAfterTTL(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	p := parttest.New(t, count.Client(t), etcdtest.Prefix(t))
	mustPut(t, p.KV(), "dir/a", "1")
	c := openCache(t, p, "dir", kv.String(), cache.WithTTL(200*time.Millisecond))
	count.Reset()
	_, err := c.Get(t.Context(), "a")
	require.NoError(t, err)
	parttest.Eventually(t, func() bool {
		_, err := c.Get(t.Context(), "a")
		return err == nil && keyReads(count) == 2
	}, "a second read of etcd")
	assert.Positive(t, c.Stats().Hits)
}

func TestCache_InvalidateRemovesEntries(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", "1")
	c := openCache(t, p, "dir", kv.String())
	read := func() {
		t.Helper()
		_, err := c.Get(t.Context(), "a")
		require.NoError(t, err)
		_, err = c.Get(t.Context(), "b")
		require.ErrorIs(t, err, kv.ErrNotFound)
	}
	read()
	c.Invalidate("a")
	c.Invalidate("unknown")
	read()
	assert.Equal(t, uint64(3), c.Stats().Fills)
	c.InvalidateAll()
	assert.Zero(t, c.Stats().Entries)
	read()
	assert.Equal(t, uint64(5), c.Stats().Fills)
	assert.Equal(t, uint64(3), c.Stats().Invalidations)
}

func TestCache_GetLinearizableSeesAcknowledgedWrites(t *testing.T) {
	t.Parallel()
	p, other := parttest.Shared(t), parttest.Shared(t)
	c := openCache(t, p, "dir", kv.String())
	for i := range 50 {
		mustPut(t, p.KV(), "dir/a", strconv.Itoa(i))
		e, err := c.GetLinearizable(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, strconv.Itoa(i), e.Value)
		mustPut(t, other.KV(), "noise", "x")
	}
	fills := c.Stats().Fills
	for range 20 {
		_, err := c.GetLinearizable(t.Context(), "a")
		require.NoError(t, err)
	}
	assert.LessOrEqual(t, c.Stats().Fills, fills+1, "it is answered from memory")
	mustDelete(t, p.KV(), "dir/a")
	_, err := c.GetLinearizable(t.Context(), "a")
	require.ErrorIs(t, err, kv.ErrNotFound)
}

func TestCache_GetLinearizableDoesNotJoinEarlierRead(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t)
	kvs := installFakeKV(cli)
	answered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	kvs.afterRead = func(op clientv3.Op) {
		if isKeyRead(op) {
			once.Do(func() { close(answered); <-release })
		}
	}
	p := parttest.New(t, cli, etcdtest.Prefix(t))
	mustPut(t, p.KV(), "dir/a", "old")
	c := openCache(t, p, "dir", kv.String())
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = c.Get(t.Context(), "a") })
	<-answered
	mustPut(t, p.KV(), "dir/a", "new")
	got := make(chan string, 1)
	wg.Go(func() {
		e, _ := c.GetLinearizable(t.Context(), "a")
		got <- e.Value
	})
	parttest.Eventually(t, func() bool { return c.Stats().Misses == 2 }, "the second has missed")
	close(release)
	assert.Equal(t, "new", <-got)
	wg.Wait()
}

func TestCache_GetAtLeastSeesWriteOfOtherProcess(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	c := openCache(t, p, "dir", kv.String())
	for i := range 100 {
		_, _ = c.Get(t.Context(), "a")
		rev := mustPut(t, p.KV(), "dir/a", strconv.Itoa(i))
		e, err := c.GetAtLeast(t.Context(), "a", rev)
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(i), e.Value)
		e, err = c.GetAtLeast(t.Context(), "a", rev-1)
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(i), e.Value)
	}
	_, err := c.GetAtLeast(t.Context(), "a", 1<<50)
	require.ErrorIs(t, err, cache.ErrInvalid)
	require.ErrorContains(t, err, "ahead of the cluster's")
	rev := mustPut(t, p.KV(), "elsewhere", "x")
	fills := c.Stats().Fills
	_, err = c.GetAtLeast(t.Context(), "a", rev)
	require.NoError(t, err)
	_, err = c.GetAtLeast(t.Context(), "a", rev)
	require.NoError(t, err)
	assert.LessOrEqual(t, c.Stats().Fills, fills+1, "a read at a revision is current at that revision")
}

func TestCache_KeepsDecodeErrorUntilValueChanges(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", "{")
	c := openCache(t, p, "dir", kv.JSON[user]())
	for range 3 {
		_, err := c.Get(t.Context(), "a")
		require.ErrorIs(t, err, kv.ErrDecode)
		require.ErrorContains(t, err, `cache: get "dir/a": value cannot be decoded: revision `)
		require.ErrorContains(t, err, ": syntax error at byte 1")
	}
	assert.Equal(t, uint64(1), c.Stats().Fills)
	assert.Equal(t, uint64(1), c.Stats().BadEntries)
	waitForValue(t, c, "a", mustPut(t, p.KV(), "dir/a", `{"Name":"Ada"}`), user{Name: "Ada"})
}

func TestWithReadOnlyCheck_FindsModifiedValues(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", `{"Tags":["x"]}`)
	c := openCache(t, p, "dir", kv.JSON[*user](), cache.WithReadOnlyCheck())
	e, err := c.Get(t.Context(), "a")
	require.NoError(t, err)
	_, err = c.Get(t.Context(), "a")
	require.NoError(t, err)
	e.Value.Tags[0] = "y"
	assert.PanicsWithValue(t, `cache: the value of "a" was changed by a reader: values of a cache are shared and read-only`, func() {
		_, _ = c.Get(t.Context(), "a")
	})
}

//nolint:paralleltest // allocations of other tests would count
func TestCache_HitDoesNotAllocate(t *testing.T) {
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", `{"Name":"Ada"}`)
	c := openCache(t, p, "dir", kv.JSON[user]())
	r := openReplica(t, p, "dir", kv.JSON[user]())
	key := string([]byte("a")) // not a constant
	for name, f := range map[string]cache.Reader[user]{"cache": c, "replica": r} {
		_, err := f.Get(t.Context(), key)
		require.NoError(t, err)
		ctx := t.Context()
		assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = f.Get(ctx, key) }), name)
	}
	_, _ = c.Get(t.Context(), "nobody")
	ctx := t.Context()
	assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = c.Get(ctx, "nobody") }), "absence")
}

func TestCache_ReturnsErrClosedAfterClose(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	c := openCache(t, p, "dir", kv.String())
	writeA(t, c, "1")
	_, err := c.Get(t.Context(), "a")
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	_, err = c.Get(t.Context(), "a")
	require.ErrorIs(t, err, cache.ErrClosed)
	_, err = c.GetLinearizable(t.Context(), "a")
	require.ErrorIs(t, err, cache.ErrClosed)
	_, err = c.GetAtLeast(t.Context(), "a", 1)
	require.ErrorIs(t, err, cache.ErrClosed)
	c.InvalidateAll()
	assert.Zero(t, p.Watcher().Active())
}

func TestCache_CloseEndsReads(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	var wg sync.WaitGroup
	for range 20 {
		c, err := cache.Open(t.Context(), p, "dir", kv.String(), cache.WithMaxEntries(1))
		require.NoError(t, err)
		for g := range 10 {
			wg.Go(func() {
				for i := range 20 {
					_, err := c.Get(t.Context(), fmt.Sprint("k", (g+i)%7))
					if g%2 == 0 {
						_, err = c.GetLinearizable(t.Context(), fmt.Sprint("k", (g+i)%7))
					}
					if err != nil && !assert.Condition(t, func() bool {
						return isNotFound(err) || isClosed(err)
					}, "%v", err) {
						return
					}
				}
			})
		}
		require.NoError(t, c.Close())
	}
	wg.Wait()
	assert.Zero(t, p.Watcher().Active())
}

func TestCache_SharesServerWatch(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	for range 3 {
		c := openCache(t, p, "dir", kv.String())
		for i := range 100 {
			_, err := c.Get(t.Context(), strconv.Itoa(i))
			require.ErrorIs(t, err, kv.ErrNotFound)
		}
	}
	assert.Equal(t, 1, p.Watcher().Stats().ServerWatches)
}
