package endpoint_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// newPool returns a pool without TLS. It is closed at the end of the test.
func newPool(t *testing.T) *endpoint.Pool {
	t.Helper()
	var cfg clientv3.Config
	require.NoError(t, wire.Harden(&cfg))
	p := endpoint.NewPool(endpoint.DialConfig(cfg), nil, nil)
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	return p
}

// unusedAddress returns an address of this machine on which no server listens.
func unusedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// A second attempt at an endpoint that cannot be connected to would wait for it.
func TestPool_OtherAvoidsEndpointThatIsDown(t *testing.T) {
	t.Parallel()
	up, down := etcdtest.Endpoints()[0], "http://"+unusedAddress(t)
	p := newPool(t)
	require.NoError(t, p.Probe(t.Context(), up))
	require.Error(t, p.Probe(t.Context(), down))
	for range 4 {
		ep, ok := p.Other([]string{up, down}, "10.0.0.1:1")
		assert.True(t, ok)
		assert.Equal(t, up, ep)
		ep, ok = p.Other([]string{down}, "10.0.0.1:1")
		assert.True(t, ok)
		assert.Equal(t, down, ep, "better than none")
	}
	addr := p.AddressOf(up)
	assert.Equal(t, up, p.EndpointAt(addr))
	_, ok := p.Other([]string{up}, addr)
	assert.False(t, ok)
}

func TestPool_RetainClosesOtherConnections(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	a, b := unusedAddress(t), unusedAddress(t)
	for _, ep := range []string{a, b} {
		_, release, err := p.Acquire(ep)
		require.NoError(t, err)
		release()
	}
	assert.Equal(t, 2, p.Len())
	p.Retain([]string{b, "elsewhere:1"})
	assert.Equal(t, 1, p.Len())
}

// A call over such a connection, which waits for its member, would outlive the client.
func TestPool_CloseClosesReplacedConnections(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	down := "http://" + unusedAddress(t)
	replaced, release, err := p.Acquire(down)
	require.NoError(t, err)
	defer release()
	require.Error(t, p.Probe(t.Context(), down))
	current, release, err := p.Acquire(down)
	require.NoError(t, err)
	defer release()
	require.NotSame(t, replaced, current)
	require.NoError(t, p.Close())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, conn := range []grpc.ClientConnInterface{replaced, current} {
		_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		require.Equal(t, codes.Canceled, status.Code(err), "%v", err)
	}
}

func TestPool_ReturnsErrClosedAfterClose(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	require.NoError(t, p.Probe(t.Context(), etcdtest.Endpoints()[0]))
	require.NoError(t, p.Close())
	require.ErrorIs(t, p.Probe(t.Context(), etcdtest.Endpoints()[0]), errs.Closed)
	_, _, err := p.Acquire(etcdtest.Endpoints()[0])
	require.ErrorIs(t, err, errs.Closed)
}

func TestPool_ReadReturnsErrorWithoutUser(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	p := newPool(t)
	require.NoError(t, p.Read(t.Context(), s.Endpoint(), "k"))
	etcdtest.EnableAuth(t, s)
	require.Error(t, p.Read(t.Context(), s.Endpoint(), "k"), "without a user")
}
