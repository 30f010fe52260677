package etcdtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
)

// getWithin is get with a limit, for servers that do not answer.
func getWithin(t *testing.T, c *etcdkit.Client, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	_, err := c.KV().Get(ctx, "k")
	return err
}

func TestServer_PauseAndResume(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	client := server.Open(t)
	put(t, client, "v")

	server.Pause()
	require.ErrorIs(t, getWithin(t, client, 300*time.Millisecond), context.DeadlineExceeded)

	server.Resume()
	value, err := get(t, client)
	require.NoError(t, err)
	assert.Equal(t, "v", value)
}

func TestServer_KillAndRestartKeepTheData(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	client := server.Open(t)
	put(t, client, "v")
	endpoint := server.Endpoint()

	server.Kill()
	server.Kill()
	_, err := etcdkit.Open(t.Context(), server.Config())
	require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	assert.ErrorContains(t, err, "connection refused")

	server.Restart()
	assert.Equal(t, endpoint, server.Endpoint())
	value, err := get(t, client)
	require.NoError(t, err)
	assert.Equal(t, "v", value)
}

func TestServer_WipeStartsAgainAtRevisionOne(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	put(t, server.Open(t), "v")

	server.Wipe()

	client := server.Open(t)
	_, err := get(t, client)
	require.ErrorIs(t, err, kv.ErrNotFound)
	rev, err := client.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err)
	assert.EqualValues(t, 2, rev)
}

func TestServer_CompactRemovesHistory(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	client := server.Open(t)
	first, err := client.KV().Put(t.Context(), "k", []byte("1"))
	require.NoError(t, err)
	put(t, client, "2")

	require.NoError(t, server.Compact(t.Context()))
	require.NoError(t, server.Compact(t.Context()), "nothing is left to compact")

	_, err = client.Raw().Get(t.Context(), "k", clientv3.WithRev(first))
	require.ErrorIs(t, err, rpctypes.ErrCompacted)

	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, server.Compact(ctx), context.DeadlineExceeded)
}

func TestServer_ExpireLeaseEndsASession(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	client := server.Open(t)
	session, err := client.Leases().OpenSession(t.Context())
	require.NoError(t, err)
	_, err = client.KV().Put(t.Context(), "k", nil, kv.WithLease(session.ID()))
	require.NoError(t, err)

	require.NoError(t, server.ExpireLease(t.Context(), session.ID()))

	_, err = get(t, client)
	require.ErrorIs(t, err, kv.ErrNotFound)
	<-session.Context().Done()
	require.ErrorIs(t, session.Err(), lease.ErrExpired)
	require.Error(t, server.ExpireLease(t.Context(), session.ID()), "it is gone already")
}

func TestServer_RequestsCountsByMethod(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	client := server.Open(t)
	before := server.Requests()
	for range 3 {
		put(t, client, "v")
	}
	after := server.Requests()
	assert.Equal(t, 3, after["KV/Put"]-before["KV/Put"])
	assert.Equal(t, before["KV/Range"], after["KV/Range"])
	assert.NotContains(t, after, "KV/DeleteRange")

	session, err := client.Leases().OpenSession(t.Context())
	require.NoError(t, err)
	sent := server.Requests()["Lease/LeaseKeepAlive"]
	deadline := session.Deadline()
	require.Eventually(t, func() bool { return session.Deadline().After(deadline) }, 10*time.Second, 10*time.Millisecond)
	assert.Greater(t, server.Requests()["Lease/LeaseKeepAlive"], sent, "messages of a stream count")
}

func TestServer_OptionsReachTheServer(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.WithFlags("--max-txn-ops=1"), etcdtest.WithUnixSocket())
	client := server.Open(t)
	assert.Contains(t, client.Raw().Endpoints()[0], "unix:///")
	_, err := client.KV().Batch(t.Context(), kv.OpPut("a", nil), kv.OpPut("b", nil))
	require.ErrorIs(t, err, kv.ErrTooLarge)
}

func TestServer_VersionIsThatOfTheMember(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	health, err := server.Open(t).Health(t.Context())
	require.NoError(t, err)
	assert.Equal(t, health.Members[0].Version, server.Version())
}

func TestCluster_SurvivesItsLeader(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.StartCluster(t, 3)
	require.Len(t, cluster.Members(), 3)
	client := cluster.Open(t)
	put(t, client, "v")

	leader := cluster.Leader(t)
	require.Contains(t, cluster.Members(), leader)
	leader.Kill()
	_, err := client.KV().Put(t.Context(), "k", []byte("w"), kv.WithOnce()) // its outcome is known, come what may
	require.NoError(t, err)
	next := cluster.Leader(t)
	assert.NotSame(t, leader, next)

	leader.Restart()
	value, err := get(t, leader.Open(t))
	require.NoError(t, err)
	assert.Equal(t, "w", value, "it has caught up")
}

func TestProxy_Faults(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	network := server.Proxy()
	client := etcdtest.OpenConfig(t, network.Config())
	put(t, client, "v")

	network.Blackhole()
	require.ErrorIs(t, getWithin(t, client, 300*time.Millisecond), context.DeadlineExceeded)
	network.Heal()
	require.NoError(t, getWithin(t, client, 10*time.Second))

	network.Refuse()
	require.NoError(t, getWithin(t, client, 10*time.Second), "the connection is open")
	network.Cut()
	require.ErrorIs(t, getWithin(t, client, 300*time.Millisecond), etcdkit.ErrUnavailable)
	network.Heal()
	require.NoError(t, getWithin(t, client, 10*time.Second))

	const delay = 50 * time.Millisecond
	network.Delay(delay)
	start := time.Now()
	require.NoError(t, getWithin(t, client, 10*time.Second))
	assert.GreaterOrEqual(t, time.Since(start), 2*delay)

	require.NoError(t, getWithin(t, server.Open(t), 10*time.Second), "other clients have another network")
}
