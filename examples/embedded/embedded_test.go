package embedded_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestEndpoints_ServerRunsUntilStopped(t *testing.T) {
	t.Setenv("ETCD_ENDPOINTS", "")
	t.Setenv("TMPDIR", t.TempDir())

	endpoints, stop, err := embedded.Endpoints(t.Context())
	require.NoError(t, err)
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	require.NoError(t, err)
	_, err = cli.Put(t.Context(), "key", "value")
	require.NoError(t, err)
	resp, err := cli.MemberList(t.Context())
	require.NoError(t, err)
	assert.Equal(t, endpoints, resp.Members[0].ClientURLs, "clients that ask for the members are sent to the right place")
	require.NoError(t, cli.Close())

	stop()
	stop()
	left, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestEndpoints_ReturnsGivenEndpoints(t *testing.T) {
	t.Setenv("ETCD_ENDPOINTS", "a:2379, b:2379")
	endpoints, stop, err := embedded.Endpoints(t.Context())
	require.NoError(t, err)
	defer stop()
	assert.Equal(t, []string{"a:2379", "b:2379"}, endpoints)
}

func TestEndpoints_CancelledStartLeavesNothing(t *testing.T) {
	t.Setenv("ETCD_ENDPOINTS", "")
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := embedded.Endpoints(ctx)
	require.ErrorIs(t, err, context.Canceled)
	left, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestConnect_ReadsFileOfTheEnvironment(t *testing.T) {
	server := etcdtest.Endpoints()
	prefix := etcdtest.Prefix(t)
	file := filepath.Join(t.TempDir(), "etcd.yaml")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	t.Setenv("ETCD_ENDPOINTS", "")
	t.Setenv(embedded.ConfigFile, file)

	write("etcd: {endpoints: [" + server[0] + "], namespace: " + prefix + ", allowInsecureCredentials: true, readTimeout: 3s, writeTimeout: 4s}")
	t.Setenv("ETCD_WRITE_TIMEOUT", "9s")
	t.Setenv("ETCD_ALLOW_INSECURE_CREDENTIALS", "false")
	client, stop, err := embedded.Connect(t.Context(), "example")
	require.NoError(t, err)
	_, err = client.KV().Put(t.Context(), "key", []byte("value"))
	require.NoError(t, err)
	inEffect := client.Diagnose(t.Context()).Settings
	assert.Equal(t, "3s", inEffect.ReadTimeout.String())
	assert.Equal(t, "9s", inEffect.WriteTimeout.String(), "the environment wins")
	assert.False(t, inEffect.AllowInsecureCredentials, "also where it forbids")
	stop()
	resp, err := etcdtest.Client(t).Get(t.Context(), prefix+"example/key")
	require.NoError(t, err)
	assert.Len(t, resp.Kvs, 1, "the namespace of the file, and below it that of the program")

	t.Setenv("ETCD_ENDPOINTS", "127.0.0.1:1")
	_, _, err = embedded.Connect(t.Context(), "example")
	require.ErrorContains(t, err, "127.0.0.1:1", "the environment wins")

	write("etcd: {endpoint: [a]}")
	_, _, err = embedded.Connect(t.Context(), "example")
	require.ErrorContains(t, err, `unknown field "endpoint"`)
}

func TestConnect_StartsNoServerIfDomainIsSet(t *testing.T) {
	t.Setenv("ETCD_ENDPOINTS", "")
	t.Setenv(embedded.ConfigFile, "")
	t.Setenv("ETCD_DISCOVERY_SRV", "etcd.invalid")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, _, err := embedded.Connect(ctx, "example")
	require.ErrorContains(t, err, "etcd.invalid")
}

func TestConnect_StartsServerIfNoneIsSet(t *testing.T) {
	t.Setenv("ETCD_ENDPOINTS", "")
	t.Setenv(embedded.ConfigFile, "")
	client, stop, err := embedded.Connect(t.Context(), "example")
	require.NoError(t, err)
	defer stop()
	_, err = client.KV().Put(t.Context(), "key", []byte("value"))
	require.NoError(t, err)
}
