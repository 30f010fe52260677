package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// late is by how much a busy machine may be late.
const late = 1500 * time.Millisecond

// idleWatch is a watch of a client that does nothing else.
func idleWatch(t *testing.T, endpoints []string) *watch.Subscription {
	t.Helper()
	c := open(t, endpoints)
	sub, err := c.Watcher().Subscribe(watch.Prefix("w/"), func(context.Context, watch.Batch) error { return nil })
	require.NoError(t, err)
	<-sub.Ready()
	require.NoError(t, sub.Refresh(t.Context()))
	return sub
}

// untilStale waits until the watch knows that it may miss changes, and returns how long that took.
func untilStale(t *testing.T, sub *watch.Subscription) time.Duration {
	t.Helper()
	began := time.Now()
	require.Eventually(t, func() bool { return sub.Status().State == watch.StateStale }, time.Minute, 5*time.Millisecond)
	return time.Since(began)
}

func TestIdle_FaultsAreFoundInTime(t *testing.T) {
	t.Parallel()
	t.Run("a frozen member, nobody asks", func(t *testing.T) {
		t.Parallel()
		s := etcdtest.Start(t)
		sub := idleWatch(t, s.Endpoints())
		s.Pause()
		took := untilStale(t, sub)
		t.Logf("found after %v", took)
		assert.LessOrEqual(t, took, 14*time.Second+late)
		s.Resume()
		require.Eventually(t, func() bool { return sub.Status().State == watch.StateLive }, time.Minute, 5*time.Millisecond)
	})
	t.Run("a dead link, nobody asks", func(t *testing.T) {
		t.Parallel()
		p := etcdtest.Start(t).Proxy(t)
		sub := idleWatch(t, p.Endpoints())
		p.Blackhole(true, true)
		took := untilStale(t, sub)
		t.Logf("found after %v", took)
		assert.LessOrEqual(t, took, 14*time.Second+late)
		p.Heal()
		require.Eventually(t, func() bool { return sub.Status().State == watch.StateLive }, time.Minute, 5*time.Millisecond)
	})
	t.Run("a frozen member, somebody asks", func(t *testing.T) {
		t.Parallel()
		s := etcdtest.Start(t)
		sub := idleWatch(t, s.Endpoints())
		s.Pause()
		began := time.Now()
		require.ErrorIs(t, sub.Refresh(t.Context()), watch.ErrUnavailable)
		t.Logf("found after %v", time.Since(began))
		assert.LessOrEqual(t, time.Since(began), 4*time.Second+late)
		s.Resume()
	})
	t.Run("a frozen member, a call is overdue", func(t *testing.T) {
		t.Parallel()
		s := etcdtest.Start(t)
		c := open(t, s.Endpoints())
		sub, err := c.Watcher().Subscribe(watch.Prefix("w/"), func(context.Context, watch.Batch) error { return nil })
		require.NoError(t, err)
		<-sub.Ready()
		s.Pause()
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		go func() { _, _ = c.KV().Put(ctx, "k", nil) }()
		took := untilStale(t, sub)
		t.Logf("found after %v", took)
		assert.LessOrEqual(t, took, time.Second+4*time.Second+late)
		s.Resume()
	})
	t.Run("a member without a leader", func(t *testing.T) {
		t.Parallel()
		cluster := etcdtest.StartCluster(t, 3)
		sub := idleWatch(t, cluster.Members[0].Endpoints())
		cluster.Members[1].Pause()
		cluster.Members[2].Pause()
		took := untilStale(t, sub)
		t.Logf("found after %v", took)
		assert.LessOrEqual(t, took, 8*time.Second, "it leads until it has missed the others for an election timeout")
		cluster.Members[1].Resume()
		cluster.Members[2].Resume()
		require.Eventually(t, func() bool { return sub.Status().State == watch.StateLive }, time.Minute, 5*time.Millisecond)
	})
}

func TestIdle_FirstReadOfAReplicaCostsARoundTrip(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	counter := etcdtest.Counter(t)
	c, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: s.Endpoints()}, etcdkit.WithDialOptions(counter.DialOption()))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	_, err = c.KV().Put(t.Context(), "dir/a", []byte("1"))
	require.NoError(t, err)
	r, err := cache.OpenReplica(t.Context(), c, "dir", kv.String(), cache.WithMaxStaleness(2*time.Second))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	held, err := cache.Open(t.Context(), c, "dir", kv.String(), cache.WithMaxStaleness(2*time.Second))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, held.Close()) })
	_, err = held.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return r.Age() > 3*time.Second && held.Age() > 3*time.Second }, time.Minute, 10*time.Millisecond)

	counter.Reset()
	_, err = r.Get(t.Context(), "a")
	require.NoError(t, err)
	_, err = held.Get(t.Context(), "a")
	require.NoError(t, err)
	assert.Less(t, r.Age(), 2*time.Second)
	assert.LessOrEqual(t, counter.Sent("Watch/Watch"), 2, "one for both, unless the second came late")
	assert.Zero(t, counter.Total(), "nothing was read: %v", counter.Counts())

	require.Eventually(t, func() bool { return r.Age() > 3*time.Second }, time.Minute, 10*time.Millisecond)
	s.Pause()
	defer s.Resume()
	began := time.Now()
	_, err = r.Get(t.Context(), "a")
	require.ErrorIs(t, err, cache.ErrStale)
	assert.LessOrEqual(t, time.Since(began), time.Second+late)
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	began = time.Now()
	_, err = r.Get(ctx, "a")
	require.ErrorIs(t, err, cache.ErrStale)
	assert.LessOrEqual(t, time.Since(began), 50*time.Millisecond+late)
}

// One link after the other is dead for a while, so one of them is that of the watch.
func TestIdle_AReplicaInUseOutlivesTheLossOfAMember(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.StartCluster(t, 3)
	var endpoints []string
	var proxies []*etcdtest.Proxy
	for _, s := range cluster.Members {
		p := s.Proxy(t)
		proxies, endpoints = append(proxies, p), append(endpoints, p.Endpoint())
	}
	c := open(t, endpoints)
	_, err := c.KV().Put(t.Context(), "dir/a", []byte("1"))
	require.NoError(t, err)
	const bound = 10 * time.Second
	r, err := cache.OpenReplica(t.Context(), c, "dir", kv.String(), cache.WithMaxStaleness(bound))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	oldest, reads := time.Duration(0), 0
	for _, p := range proxies {
		p.Blackhole(true, true)
		for began := time.Now(); time.Since(began) < 12*time.Second; reads++ {
			_, err := r.Get(t.Context(), "a")
			require.NoError(t, err, "after %v", time.Since(began))
			oldest = max(oldest, r.Age())
			idleWait(t, 10*time.Millisecond)
		}
		p.Heal()
	}
	t.Logf("%d reads, the oldest %v old, %d reconnects", reads, oldest, c.Watcher().Stats().Reconnects)
	assert.Positive(t, c.Watcher().Stats().Reconnects, "no link was that of the watch: the test does not test that")
	assert.LessOrEqual(t, oldest, bound)
}
