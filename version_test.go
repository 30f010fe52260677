package etcdkit_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// reportVersion returns an option that replaces the version that servers report.
func reportVersion(version string) grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoke(ctx, method, req, reply, cc, opts...)
		if s, ok := reply.(*pb.StatusResponse); ok {
			s.Version = version
		}
		return err
	})
}

func TestOpen_ReturnsErrUnsupportedServer(t *testing.T) {
	t.Parallel()
	cfg := etcdkit.Config{Endpoints: etcdtest.Endpoints()}
	log := &etcdtest.Log{}
	_, err := etcdkit.Open(t.Context(), cfg, etcdkit.WithDialOptions(reportVersion("3.5.7")), etcdkit.WithLogger(log.Logger()))
	require.ErrorIs(t, err, etcdkit.ErrUnsupportedServer)
	var of *etcdkit.EndpointError
	require.ErrorAs(t, err, &of)
	assert.Contains(t, etcdtest.Endpoints()[0], of.Endpoint)
	assert.Regexp(t, `member [0-9a-f]+ runs etcd 3\.5\.7: its progress notifications can overtake events`, err.Error())
	assert.NotContains(t, log.String(), "not supported", "the error is returned instead")

	c := open(t, cfg, etcdkit.WithDialOptions(reportVersion("3.5.7")), etcdkit.WithLogger(log.Logger()), etcdkit.WithUnsupportedServers())
	assert.Equal(t, 1, log.Count("etcd server is not supported"))
	report := c.Diagnose(t.Context())
	assert.Contains(t, strings.Join(report.Problems, "\n"), "runs etcd 3.5.7, which is not supported")
	assert.Equal(t, 1, log.Count("etcd server is not supported"), "once per server")
}

func TestOpenLazy_LogsAnUnsupportedServer(t *testing.T) {
	t.Parallel()
	log := &etcdtest.Log{}
	c := opened(t, etcdkit.Config{Endpoints: etcdtest.Endpoints()}, etcdkit.WithDialOptions(reportVersion("3.5.12")), etcdkit.WithLogger(log.Logger()))
	require.Eventually(t, func() bool {
		return strings.Contains(log.String(), "level=WARN msg=\"etcd server is not supported\"")
	}, 20*time.Second, time.Millisecond)
	assert.Contains(t, log.String(), "version=3.5.12 reason=\"3.5.13 is required\"")
	_, err := c.KV().Exists(t.Context(), "k")
	require.NoError(t, err, "the client works")
}

func TestWrap_LogsAnUnsupportedServerAtTheFirstHealth(t *testing.T) {
	t.Parallel()
	cli := etcdtest.NewClient(t, etcdtest.Endpoints(), func(cfg *clientv3.Config) { cfg.DialOptions = append(cfg.DialOptions, reportVersion("3.4.30")) })
	log := &etcdtest.Log{}
	c, err := etcdkit.Wrap(cli, etcdkit.WithLogger(log.Logger()))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	assert.NotContains(t, log.String(), "not supported")
	_, err = c.Health(t.Context())
	require.NoError(t, err)
	assert.Contains(t, log.String(), "version=3.4.30 reason=\"3.4.31 is required\"")
}

func TestClient_LogsAnUnsupportedServerThatJoinsLater(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	proxy := s.Proxy(t)
	proxy.Refuse()
	old := proxy.Endpoints()[0]
	log := &etcdtest.Log{}
	joins := grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoke(ctx, method, req, reply, cc, opts...)
		if s, ok := reply.(*pb.StatusResponse); ok && strings.HasSuffix(old, strings.TrimLeft(cc.Target()[strings.LastIndex(cc.Target(), "/"):], "/")) {
			s.Version = "3.5.7"
		}
		return err
	})
	c := open(t, etcdkit.Config{Endpoints: []string{s.Endpoint(), old}}, etcdkit.WithDialOptions(joins), etcdkit.WithLogger(log.Logger()))
	assert.NotContains(t, log.String(), "not supported")
	proxy.Accept()
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "etcd server is not supported") }, 30*time.Second, time.Millisecond)
	assert.Contains(t, log.String(), "version=3.5.7")
	report := c.Diagnose(t.Context())
	assert.Contains(t, strings.Join(report.Problems, "\n"), "runs etcd 3.5.7, which is not supported")
}
