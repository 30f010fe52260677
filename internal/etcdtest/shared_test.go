//go:build unix

package etcdtest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestClient_ReachesTheSharedServer(t *testing.T) {
	t.Parallel()
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)

	_, err := cli.Put(t.Context(), dir+"key", "value")
	require.NoError(t, err)

	resp, err := cli.Get(t.Context(), dir+"key")
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
	assert.Equal(t, "value", string(resp.Kvs[0].Value))
}

func TestEndpoints_ReturnsOneServer(t *testing.T) {
	t.Parallel()
	assert.Equal(t, etcdtest.Endpoints(), etcdtest.Endpoints())
	assert.Equal(t, etcdtest.Endpoints(), etcdtest.Client(t).Endpoints())
}

//nolint:tparallel // the subtest has to be over before the check
func TestPrefix(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t)
	var dir string
	t.Run("is a directory of the test's own", func(t *testing.T) {
		dir = etcdtest.Prefix(t)
		assert.True(t, strings.HasSuffix(dir, "/"), dir)
		assert.NotEqual(t, dir, etcdtest.Prefix(t))
		_, err := cli.Put(t.Context(), dir+"left/behind", "")
		require.NoError(t, err)
	})
	resp, err := cli.Get(t.Context(), dir, clientv3.WithPrefix(), clientv3.WithCountOnly())
	require.NoError(t, err)
	assert.Zero(t, resp.Count, "the keys outlive the test")
}

func ExampleEndpoints() {
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cli.Close()
	_, err = cli.Get(context.Background(), "greeting")
	fmt.Println(err)
	// Output: <nil>
}
