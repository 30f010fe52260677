package wire_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// hardened returns an option for a hardened client.
func hardened(t *testing.T) func(*clientv3.Config) {
	t.Helper()
	return func(cfg *clientv3.Config) { require.NoError(t, wire.Harden(cfg)) }
}

func TestHarden_RejectsConflictingConfig(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		cfg   *clientv3.Config
		words []string
	}{
		"nil":                    {nil, []string{"no configuration"}},
		"short keepalive time":   {&clientv3.Config{DialKeepAliveTime: 9 * time.Second}, []string{"9s is below 10s"}},
		"pings without a stream": {&clientv3.Config{PermitWithoutStream: true}, []string{"PermitWithoutStream"}},
		"both":                   {&clientv3.Config{DialKeepAliveTime: 1, PermitWithoutStream: true}, []string{"below 10s", "PermitWithoutStream"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var before clientv3.Config
			if tt.cfg != nil {
				before = *tt.cfg
			}
			err := wire.Harden(tt.cfg)
			require.ErrorIs(t, err, errs.Invalid)
			for _, w := range tt.words {
				assert.ErrorContains(t, err, w)
			}
			if tt.cfg != nil {
				assert.Equal(t, before, *tt.cfg, "the configuration is unchanged")
			}
		})
	}
}

func TestHarden_SetsDefaults(t *testing.T) {
	t.Parallel()
	cfg := clientv3.Config{MaxUnaryRetries: 50}
	require.NoError(t, wire.Harden(&cfg))
	assert.Equal(t, 10*time.Second, cfg.DialKeepAliveTime)
	assert.Equal(t, 4*time.Second, cfg.DialKeepAliveTimeout)
	assert.EqualValues(t, 1, cfg.MaxUnaryRetries)
	assert.False(t, cfg.PermitWithoutStream)

	cfg = clientv3.Config{DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: time.Second}
	require.NoError(t, wire.Harden(&cfg))
	assert.Equal(t, 10*time.Second, cfg.DialKeepAliveTime)
	assert.Equal(t, time.Second, cfg.DialKeepAliveTimeout)
}

func TestHarden_IsIdempotent(t *testing.T) {
	t.Parallel()
	room := make([]grpc.DialOption, 1, 10)
	room[0] = grpc.WithUserAgent("mine")
	cfg := clientv3.Config{DialOptions: room}
	require.NoError(t, wire.Harden(&cfg))
	once := len(cfg.DialOptions)
	assert.Greater(t, once, 1)
	require.NoError(t, wire.Harden(&cfg))
	assert.Len(t, cfg.DialOptions, once)
	assert.Nil(t, room[:2][1], "the slice of the caller is not modified")
}

func TestHardened_ReturnsFalseForOtherClients(t *testing.T) {
	t.Parallel()
	yes := etcdtest.Client(t, hardened(t))
	assert.True(t, wire.Hardened(yes))
	assert.False(t, wire.Hardened(etcdtest.Client(t)))
	assert.False(t, wire.Hardened(clientv3.NewCtxClient(t.Context())), "it has no connection")

	within := func(cfg *clientv3.Config) { cfg.Context = yes.Ctx() }
	assert.False(t, wire.Hardened(etcdtest.Client(t, within)), "only its context is that of a hardened client")
	assert.True(t, wire.Hardened(etcdtest.Client(t, within, hardened(t))))
}

// notes is a server that rejects all calls and records which of them require a leader.
type notes struct {
	mu       sync.Mutex
	insisted map[string]bool
	endpoint string
}

func takeNotes(t *testing.T) *notes {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &notes{insisted: map[string]bool{}, endpoint: l.Addr().String()}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		md, _ := metadata.FromIncomingContext(stream.Context())
		n.mu.Lock()
		defer n.mu.Unlock()
		n.insisted[method] = len(md.Get(rpctypes.MetadataRequireLeaderKey)) == 1
		return status.Error(codes.Unimplemented, "not here")
	}))
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		srv.Stop()
		wg.Wait()
	})
	return n
}

// last returns and removes the last record.
func (n *notes) last(t *testing.T, method string) bool {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	insisted, called := n.insisted[method]
	require.True(t, called, "%s was not called, but %v", method, n.insisted)
	clear(n.insisted)
	return insisted
}

func TestHarden_RequiresLeaderForDataCalls(t *testing.T) {
	t.Parallel()
	get := func(opts ...clientv3.OpOption) func(context.Context, *clientv3.Client) error {
		return func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Get(ctx, "k", opts...)
			return err
		}
	}
	for name, tt := range map[string]struct {
		method string
		want   bool
		call   func(context.Context, *clientv3.Client) error
	}{
		"a linearizable read": {"/etcdserverpb.KV/Range", true, get()},
		"a serializable read": {"/etcdserverpb.KV/Range", false, get(clientv3.WithSerializable())},
		"a streamed read": {"/etcdserverpb.KV/RangeStream", true, func(ctx context.Context, c *clientv3.Client) error {
			stream, err := c.GetStream(ctx, "k")
			if err == nil {
				_, err = clientv3.GetStreamToGetResponse(stream)
			}
			return err
		}},
		"a put": {"/etcdserverpb.KV/Put", true, func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Put(ctx, "k", "v")
			return err
		}},
		"a transaction": {"/etcdserverpb.KV/Txn", true, func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Txn(ctx).Commit()
			return err
		}},
		"a transaction of serializable reads": {"/etcdserverpb.KV/Txn", false, func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Txn(ctx).Then(clientv3.OpGet("k", clientv3.WithSerializable())).Commit()
			return err
		}},
		"a transaction with a linearizable read": {"/etcdserverpb.KV/Txn", true, func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Txn(ctx).Then(clientv3.OpGet("k", clientv3.WithSerializable())).Else(clientv3.OpGet("k")).Commit()
			return err
		}},
		"a grant": {"/etcdserverpb.Lease/LeaseGrant", true, func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Grant(ctx, 10)
			return err
		}},
		"a renewal": {"/etcdserverpb.Lease/LeaseKeepAlive", true, func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.KeepAliveOnce(ctx, 1)
			return err
		}},
		"a watch": {"/etcdserverpb.Watch/Watch", true, func(ctx context.Context, c *clientv3.Client) error {
			r := <-c.Watch(ctx, "k")
			return r.Err()
		}},
		"the status of a member": {"/etcdserverpb.Maintenance/Status", false, func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Status(ctx, c.Endpoints()[0])
			return err
		}},
		"the list of members": {"/etcdserverpb.Cluster/MemberList", false, func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.MemberList(ctx)
			return err
		}},
		"a health check": {"/grpc.health.v1.Health/Check", false, func(ctx context.Context, c *clientv3.Client) error {
			require.NoError(t, wire.Probe(ctx, c.ActiveConnection()), "a server without health checks counts as healthy")
			return status.Error(codes.Unimplemented, "not here")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := takeNotes(t)
			cli := etcdtest.NewClient(t, []string{n.endpoint}, hardened(t))
			require.Error(t, tt.call(t.Context(), cli), "nothing is implemented here; a stream may tell by its end alone")
			assert.Equal(t, tt.want, n.last(t, tt.method))
		})
	}
}

func TestKV_RequiresLeaderOnPlainClient(t *testing.T) {
	t.Parallel()
	n := takeNotes(t)
	kv, _ := wire.KV(etcdtest.NewClient(t, []string{n.endpoint}))
	for _, tt := range []struct {
		method string
		want   bool
		op     clientv3.Op
	}{
		{"/etcdserverpb.KV/Range", true, clientv3.OpGet("k")},
		{"/etcdserverpb.KV/Range", false, clientv3.OpGet("k", clientv3.WithSerializable())},
		{"/etcdserverpb.KV/Put", true, clientv3.OpPut("k", "v")},
		{"/etcdserverpb.KV/DeleteRange", true, clientv3.OpDelete("k")},
		{"/etcdserverpb.KV/Txn", true, clientv3.OpTxn(nil, nil, nil)},
		{"/etcdserverpb.KV/Txn", true, clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("k", "v")}, nil)},
		{"/etcdserverpb.KV/Txn", false, clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("k", clientv3.WithSerializable())}, nil)},
	} {
		_, err := kv.Do(t.Context(), tt.op)
		require.Equal(t, codes.Unimplemented, status.Code(err))
		assert.Equal(t, tt.want, n.last(t, tt.method), tt.method)
	}
	_, err := kv.Compact(t.Context(), 1)
	require.Equal(t, codes.Unimplemented, status.Code(err))
	assert.True(t, n.last(t, "/etcdserverpb.KV/Compact"))
}
