package etcdkit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	testkit "github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// follower returns a member that is not the leader.
func follower(t *testing.T, c *testkit.Cluster) *testkit.Server {
	t.Helper()
	leader, members := c.Leader(t), c.Members()
	i := slices.IndexFunc(members, func(s *testkit.Server) bool { return s != leader })
	return members[i]
}

func TestClient_EvictsAndReadmitsFrozenMember(t *testing.T) {
	t.Parallel()
	cluster := testkit.StartCluster(t, 3)
	c := cluster.Open(t)
	frozen := follower(t, cluster)
	frozen.Pause()
	read := func() {
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, err := c.KV().Exists(ctx, "k")
		assert.NoError(t, err)
	}
	began := time.Now()
	for len(c.Stats().Evicted) == 0 {
		require.Less(t, time.Since(began), 20*time.Second)
		read()
	}
	assert.Equal(t, []string{frozen.Endpoint()}, c.Stats().Evicted)
	assert.NotContains(t, c.Raw().Endpoints(), frozen.Endpoint())
	for range 100 {
		read()
	}
	h, err := c.Health(t.Context())
	require.NoError(t, err)
	i := slices.IndexFunc(h.Members, func(m etcdkit.Member) bool { return m.Endpoint == frozen.Endpoint() })
	require.GreaterOrEqual(t, i, 0)
	assert.True(t, h.Members[i].Evicted)
	assert.False(t, h.Members[i].Reachable)
	assert.Equal(t, "no answer within 2s", h.Members[i].Err)

	frozen.Resume()
	require.Eventually(t, func() bool { return len(c.Raw().Endpoints()) == 3 }, 30*time.Second, 50*time.Millisecond)
	assert.Empty(t, c.Stats().Evicted)
	assert.EqualValues(t, 1, c.Stats().Readmissions)
}

func TestOpen_EvictsFrozenMember(t *testing.T) {
	t.Parallel()
	cluster := testkit.StartCluster(t, 3)
	frozen := follower(t, cluster)
	frozen.Pause()
	began := time.Now()
	c := cluster.Open(t)
	assert.Less(t, time.Since(began), 5*time.Second)
	for range 30 {
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		_, err := c.KV().Exists(ctx, "k")
		stop()
		require.NoError(t, err)
	}
	frozen.Resume()
	require.Eventually(t, func() bool { return len(c.Raw().Endpoints()) == 3 }, 30*time.Second, 50*time.Millisecond)
}

func TestClient_EvictsNothingWithoutQuorum(t *testing.T) {
	t.Parallel()
	cluster := testkit.StartCluster(t, 2) // no quorum without both
	count := etcdtest.Counter(t)
	c := cluster.Open(t, etcdkit.WithDialOptions(count.DialOption()))
	stopped := cluster.Members()[0]
	stopped.Kill()
	_, err := c.Health(t.Context())
	require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	rounds := func(n int, check func()) { // both are probed
		count.Reset()
		require.Eventually(t, func() bool {
			check()
			return count.Count("Health/Check") >= 2*n
		}, 60*time.Second, 10*time.Millisecond)
	}
	rounds(4, func() {}) // the remaining member needs time to notice that it has no leader
	rounds(3, func() { assert.Len(t, c.Raw().Endpoints(), 2, "the stopped member may recover first") })
	stopped.Restart()
	_, err = c.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err)
}

// Until a frozen member is evicted, a third of all calls is sent to it. A second attempt of those
// that are safe to repeat is made at another member. The others wait.
func TestClient_HedgesCallsAtFrozenMember(t *testing.T) {
	t.Parallel()
	cluster := testkit.StartCluster(t, 3)
	c := cluster.Open(t)
	store := c.KV()
	_, err := store.Put(t.Context(), "warm", nil, kv.WithOnce()) // creates a slot
	require.NoError(t, err)
	const each = 5
	revs := make([]int64, each)
	for i := range revs {
		revs[i], err = store.Put(t.Context(), fmt.Sprintf("replaced/%d", i), nil)
		require.NoError(t, err)
	}
	follower(t, cluster).Pause()
	const deadline = 10 * time.Second
	ctx, stop := context.WithTimeout(t.Context(), deadline)
	defer stop()
	var wg sync.WaitGroup
	for i := range each {
		wg.Go(func() {
			_, err := store.Exists(ctx, "warm")
			assert.NoError(t, err)
		})
		wg.Go(func() {
			_, err := store.Replace(ctx, fmt.Sprintf("replaced/%d", i), []byte("new"), revs[i])
			assert.NoError(t, err)
		})
		wg.Go(func() {
			_, err := store.Put(ctx, fmt.Sprintf("put/%d", i), nil, kv.WithOnce())
			assert.NoError(t, err)
		})
	}
	granted := make([]error, 3)
	for i := range granted {
		wg.Go(func() {
			info, err := c.Leases().Grant(ctx, time.Minute)
			if err == nil {
				err = c.Leases().Revoke(ctx, info.ID)
			}
			granted[i] = err
		})
	}
	for range 3 {
		wg.Go(func() {
			for _, err := range store.List(ctx, "replaced/") {
				assert.NoError(t, err)
			}
		})
	}
	for i := range 3 { // a put at the frozen member is not repeated, and its outcome is unknown
		wg.Go(func() {
			ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
			defer stop()
			_, err := store.Put(ctx, fmt.Sprintf("plain/%d", i), nil)
			assert.True(t, err == nil || errors.Is(err, etcdkit.ErrUnknownOutcome) && errors.Is(err, context.DeadlineExceeded), err)
		})
	}
	wg.Wait()
	assert.NoError(t, ctx.Err())
	assert.Positive(t, c.Stats().KV.Retries, "no call was sent to the frozen member")
	assert.NoError(t, errors.Join(granted...))
	for i := range each {
		e, err := store.Get(t.Context(), fmt.Sprintf("replaced/%d", i))
		require.NoError(t, err)
		assert.EqualValues(t, 2, e.Version, "it was applied once")
		e, err = store.Get(t.Context(), fmt.Sprintf("put/%d", i))
		require.NoError(t, err)
		assert.EqualValues(t, 1, e.Version)
	}
}

// A new leader rejects the reads that wait at its followers, and writes that were forwarded to the
// old one time out after 7 s. Their other attempts may be at the frozen member.
func TestClient_CallsSurviveFrozenLeader(t *testing.T) {
	t.Parallel()
	cluster := testkit.StartCluster(t, 3)
	c := cluster.Open(t)
	_, err := c.KV().Put(t.Context(), "warm", nil, kv.WithOnce()) // creates a slot
	require.NoError(t, err)
	cluster.Leader(t).Pause()
	// Shorter than keepalive needs to close a connection.
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			_, err := c.KV().Exists(ctx, "k")
			assert.NoError(t, err)
		})
		wg.Go(func() {
			_, err := c.KV().Put(ctx, fmt.Sprintf("put/%d", i), nil, kv.WithOnce())
			assert.NoError(t, err)
		})
	}
	wg.Wait()
}
