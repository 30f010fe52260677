package etcdkit_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// cutOff is a member that is partitioned from the others. Like etcd, it rejects calls that require
// a leader and answers others.
type cutOff struct {
	endpoint string
	rejected atomic.Int32
	healthy  atomic.Bool // it answers health checks
}

func startCutOff(t *testing.T) *cutOff {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	m := &cutOff{endpoint: "http://" + l.Addr().String()}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		if method, _ := grpc.MethodFromServerStream(stream); m.healthy.Load() && method == healthpb.Health_Check_FullMethodName {
			return status.Error(codes.Unimplemented, "not implemented")
		}
		md, _ := metadata.FromIncomingContext(stream.Context())
		if len(md.Get(rpctypes.MetadataRequireLeaderKey)) > 0 {
			m.rejected.Add(1)
			return rpctypes.ErrGRPCNoLeader
		}
		return status.Error(codes.Unimplemented, "not implemented")
	}))
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		srv.Stop()
		wg.Wait()
	})
	return m
}

func TestOpen_EvictsPartitionedMember(t *testing.T) {
	t.Parallel()
	lone := startCutOff(t)
	slow := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	slow.Delay(150 * time.Millisecond) // each way, so that it answers after the grace period
	c := open(t, etcdkit.Config{Endpoints: []string{lone.endpoint, slow.Endpoint()}})
	assert.Equal(t, slow.Endpoints(), c.Raw().Endpoints())
	assert.Equal(t, []string{lone.endpoint}, c.Stats().Evicted)
	assert.Positive(t, lone.rejected.Load())
}

func TestOpen_ReturnsErrorWithoutLeader(t *testing.T) {
	t.Parallel()
	lone, dead := startCutOff(t), freePort(t)
	_, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: []string{lone.endpoint, dead}, DialTimeout: seconds(1)})
	require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	require.ErrorContains(t, err, lone.endpoint)
	require.ErrorContains(t, err, "no leader")
	require.ErrorContains(t, err, dead)
}

func TestOpen_ReadmitsSlowEndpointIfOthersLoseLeader(t *testing.T) {
	t.Parallel()
	lone := startCutOff(t)
	lone.healthy.Store(true) // so that it is not evicted before the read
	slow := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	slow.Delay(150 * time.Millisecond)
	c := open(t, etcdkit.Config{Endpoints: []string{lone.endpoint, slow.Endpoint()}})
	assert.Contains(t, c.Raw().Endpoints(), slow.Endpoint())
}
