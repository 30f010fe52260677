//go:build unix

package etcdtest_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func put(t *testing.T, cli *clientv3.Client, key string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	resp, err := cli.Put(ctx, key, "value")
	require.NoError(t, err)
	return resp.Header.Revision
}

func count(t *testing.T, cli *clientv3.Client, key string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	resp, err := cli.Get(ctx, key, clientv3.WithCountOnly())
	require.NoError(t, err)
	return resp.Count
}

func TestServer_RestartKeepsData(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*etcdtest.Server){
		"after a restart":          func(s *etcdtest.Server) { s.Restart() },
		"after a stop":             func(s *etcdtest.Server) { s.Stop(); s.Launch(); s.WaitReady() },
		"after a kill":             func(s *etcdtest.Server) { s.Kill(); s.Restart() },
		"after a kill when paused": func(s *etcdtest.Server) { s.Pause(); s.Kill(); s.Restart() },
		"after a stop when paused": func(s *etcdtest.Server) { s.Pause(); s.Restart() },
	}
	for name, interrupt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := etcdtest.Start(t)
			endpoint, pid := srv.Endpoint(), srv.PID()
			rev := put(t, srv.Client(t), "key")

			interrupt(srv)

			assert.Equal(t, endpoint, srv.Endpoint())
			assert.NotEqual(t, pid, srv.PID())
			resp, err := srv.Client(t).Get(t.Context(), "key")
			require.NoError(t, err)
			require.Len(t, resp.Kvs, 1)
			assert.Equal(t, rev, resp.Kvs[0].ModRevision)
		})
	}
}

func TestServer_StopLastsUntilLaunch(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	assert.True(t, srv.Running())
	srv.Stop()
	assert.False(t, srv.Running())
	srv.Kill()
	srv.Stop()
	assert.False(t, srv.Running())
	srv.Launch()
	assert.True(t, srv.Running())
	srv.WaitReady()
}

func TestServer_PauseLastsUntilResume(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cli := srv.Client(t)
	put(t, cli, "key")

	srv.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := cli.Get(ctx, "key")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.True(t, srv.Running())

	srv.Resume()
	assert.EqualValues(t, 1, count(t, cli, "key"))
}

func TestServer_WipeKeepsTheClusterID(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cli := srv.Client(t)
	before, err := cli.Put(t.Context(), "key", "value")
	require.NoError(t, err)

	srv.Wipe()

	after, err := srv.Client(t).Get(t.Context(), "key")
	require.NoError(t, err)
	assert.Zero(t, after.Count)
	assert.EqualValues(t, 1, after.Header.Revision)
	assert.Equal(t, before.Header.ClusterId, after.Header.ClusterId)
}

func TestServer_CompactDropsHistory(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cli := srv.Client(t)
	first, second := put(t, cli, "key"), put(t, cli, "key")

	assert.Equal(t, second, srv.Compact(second))
	_, err := cli.Get(t.Context(), "key", clientv3.WithRev(first))
	require.ErrorIs(t, err, rpctypes.ErrCompacted)
	_, err = cli.Get(t.Context(), "key", clientv3.WithRev(second))
	require.NoError(t, err)

	third := put(t, cli, "key")
	assert.Equal(t, third, srv.Compact(0), "the current revision")
	_, err = cli.Get(t.Context(), "key", clientv3.WithRev(second))
	require.ErrorIs(t, err, rpctypes.ErrCompacted)
}

func TestServer_Metric(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	const puts = "etcd_mvcc_put_total"
	before := srv.Metric(puts)
	put(t, srv.Client(t), "key")
	assert.InDelta(t, before+1, srv.Metric(puts), 0)

	const handled = "grpc_server_handled_total"
	one := srv.Metric(handled + `{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}`)
	assert.InDelta(t, 1, one, 0, "one series")
	put(t, srv.Client(t), "key")
	_, err := srv.Client(t).Get(t.Context(), "key")
	require.NoError(t, err)
	assert.Greater(t, srv.Metric(handled), one+1, "all series")
	assert.Zero(t, srv.Metric("no_such_metric"))
}

func TestServer_WithFlags(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, etcdtest.WithFlags("--max-txn-ops=1"))
	_, err := srv.Client(t).Txn(t.Context()).Then(clientv3.OpGet("a"), clientv3.OpGet("b")).Commit()
	require.ErrorIs(t, err, rpctypes.ErrTooManyOps)
}

func TestServer_RestartAfterNoSpaceAlarm(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, etcdtest.WithFlags("--quota-backend-bytes=65536"))
	cli := srv.Client(t)
	fill := func() error {
		_, err := cli.Put(t.Context(), "key", strings.Repeat("x", 64<<10))
		return err
	}
	var err error
	for err = fill(); err == nil; err = fill() {
	}
	require.ErrorIs(t, err, rpctypes.ErrNoSpace)
	srv.Restart()
	require.ErrorIs(t, fill(), rpctypes.ErrNoSpace)
}

func TestServer_WithUnixSocket(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, etcdtest.WithUnixSocket())
	assert.True(t, strings.HasPrefix(srv.Endpoint(), "unix:///"), srv.Endpoint())
	cli := srv.Client(t)
	put(t, cli, "key")

	proxied := newClientOf(t, srv.Proxy(t))
	assert.EqualValues(t, 1, count(t, proxied, "key"))
}

//nolint:tparallel // the subtest has to be over before the check
func TestServer_DataIsRemovedAfterTheTest(t *testing.T) {
	t.Parallel()
	var srv *etcdtest.Server
	t.Run("the test", func(t *testing.T) {
		srv = etcdtest.Start(t)
		assert.DirExists(t, srv.DataDir())
	})
	assert.NoDirExists(t, srv.DataDir())
	assert.False(t, srv.Running())
}

func TestServer_IgnoresEtcdEnvironment(t *testing.T) {
	t.Setenv("ETCD_MAX_TXN_OPS", "1")
	t.Setenv("ETCD_NAME", "somebody")
	srv := etcdtest.Start(t)
	_, err := srv.Client(t).Txn(t.Context()).Then(clientv3.OpGet("a"), clientv3.OpGet("b")).Commit()
	require.NoError(t, err)
	log, err := os.ReadFile(srv.DataDir() + "/server.log")
	require.NoError(t, err)
	assert.NotContains(t, string(log), "somebody")
}
