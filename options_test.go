package etcdkit_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestObserver_ReceivesRetries(t *testing.T) {
	t.Parallel()
	log := &etcdtest.Log{}
	seen := make(chan etcdkit.Operation, 100)
	key := etcdtest.Prefix(t) + "absent"
	var refused atomic.Bool // the first read of key
	refuser := grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
		if r, ok := req.(*pb.RangeRequest); ok && string(r.GetKey()) == key && refused.CompareAndSwap(false, true) {
			return rpctypes.ErrGRPCNoLeader
		}
		return invoke(ctx, method, req, reply, cc, o...)
	})
	c := open(t, etcdkit.Config{Endpoints: etcdtest.Endpoints()}, etcdkit.WithDialOptions(refuser), etcdkit.WithLogger(log.Logger()), etcdkit.WithObserver(etcdkit.Observer{
		Retry: func(_ context.Context, op etcdkit.Operation, attempt int, err error) {
			assert.Error(t, err)
			assert.Positive(t, attempt)
			seen <- op
		},
	}))
	_, err := c.KV().Get(t.Context(), key)
	require.ErrorIs(t, err, kv.ErrNotFound)
	require.NotEmpty(t, seen)
	assert.Equal(t, etcdkit.Operation{Package: "kv", Name: "get"}, <-seen)
	assert.Positive(t, c.Stats().KV.Retries)
	assert.Contains(t, log.String(), "etcd call is repeated")
}

func TestOptions_LastWins(t *testing.T) {
	t.Parallel()
	c := opened(t, etcdkit.Config{Namespace: "a"}, etcdkit.WithNamespace("b"), etcdkit.WithNamespace("c"))
	ctx, stop := context.WithCancel(t.Context())
	stop()
	assert.Equal(t, "c/", c.Diagnose(ctx).Namespace)
	assert.Equal(t, "c/", c.Diagnose(ctx).Settings.Namespace)
}
