package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/tests/v3/framework/integration"
	"go.uber.org/zap"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// newCluster runs members of the test framework in this process. Tests that use it cannot run in parallel: the framework
// changes the working directory.
func newCluster(t *testing.T, size int) *integration.Cluster {
	t.Helper()
	integration.BeforeTestExternal(t)
	c := integration.NewCluster(t, &integration.ClusterConfig{Size: size, UseTCP: true})
	t.Cleanup(func() { c.Terminate(t) })
	return c
}

// newClient connects to all members. It sends each request once.
func newClient(t *testing.T, c *integration.Cluster, opts ...func(*clientv3.Config)) *clientv3.Client {
	t.Helper()
	cfg := clientv3.Config{Endpoints: c.Endpoints(), DialTimeout: 5 * time.Second, MaxUnaryRetries: 1, Logger: zap.NewNop()}
	for _, opt := range opts {
		opt(&cfg)
	}
	cli, err := clientv3.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cli.Close()) })
	return cli
}

//nolint:paralleltest // the framework changes the working directory
func TestReadsAndWritesStayLinearizableWhenTheLeaderStops(t *testing.T) {
	cluster := newCluster(t, 3)
	counter := etcdtest.Counter(t)
	cli := newClient(t, cluster, counter.Option)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h := history{start: time.Now()}
	require.NoError(t, h.use(ctx, cli, "register", 10))

	const users, rounds = 4, 25
	results := make(chan error, users)
	for range users {
		go func() { results <- h.use(ctx, cli, "register", rounds) }()
	}
	cluster.Members[cluster.WaitLeader(t)].Stop(t)
	for range users {
		require.NoError(t, <-results)
	}
	require.NoError(t, h.use(ctx, cli, "register", 10), "two of three members are a majority")

	h.check(t)
	assert.GreaterOrEqual(t, counter.Count("KV/Put"), 10+users*rounds+10)
}
