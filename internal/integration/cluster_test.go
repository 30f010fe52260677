package integration_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/tests/v3/framework/integration"
	"go.uber.org/zap"

	"github.com/etcdkit/etcdkit"
)

// newCluster runs three members of the test framework in this process. Tests that use it cannot run
// in parallel: the framework changes the working directory.
func newCluster(t *testing.T) *integration.Cluster {
	t.Helper()
	integration.BeforeTestExternal(t)
	c := integration.NewCluster(t, &integration.ClusterConfig{Size: 3, UseTCP: true})
	t.Cleanup(func() { c.Terminate(t) })
	return c
}

// newClient is a plain client of endpoints, closed when the test ends.
func newClient(t *testing.T, endpoints []string) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cli.Close()) })
	return cli
}

// open is a client of the library for endpoints, closed when the test ends.
func open(t *testing.T, endpoints []string) *etcdkit.Client {
	t.Helper()
	c, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: endpoints})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}
