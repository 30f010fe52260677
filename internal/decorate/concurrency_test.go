package decorate_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc/metadata"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

const (
	watches = "Watch/Watch"
	refusal = "invalid auth token"
)

// ways are the clients that the same code is run with: the decorators are there for what the others
// fail at.
func ways() map[string]struct {
	install func(*clientv3.Client)
	works   bool
} {
	return map[string]struct {
		install func(*clientv3.Client)
		works   bool
	}{
		"over client/v3 as it is":     {func(*clientv3.Client) {}, false},
		"over KV and Lease decorated": {func(cli *clientv3.Client) { install(cli, false) }, false},
		"over all three decorated":    {func(cli *clientv3.Client) { install(cli, true) }, true},
	}
}

func session(t *testing.T, cli *clientv3.Client) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(cli, concurrency.WithTTL(60))
	require.NoError(t, err)
	t.Cleanup(s.Orphan)
	return s
}

// until returns once there are n watches on a server.
func until(t *testing.T, s *etcdtest.Server, n float64) {
	t.Helper()
	require.Eventually(t, func() bool { return s.Metric("etcd_debugging_mvcc_watcher_total") == n }, 20*time.Second, 10*time.Millisecond)
}

func TestConcurrency_MutexOutlivesToken(t *testing.T) {
	t.Parallel()
	for name, tt := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, dir := guarded(t), "app/contended"
			lapse, cli := lapser(t, s), app(t, s)
			tt.install(cli)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var turns []*concurrency.Mutex
			for range 3 {
				turns = append(turns, concurrency.NewMutex(session(t, cli), dir))
			}
			require.NoError(t, turns[0].Lock(ctx))
			second, third := make(chan error, 1), make(chan error, 1)
			go func() { second <- turns[1].Lock(ctx) }()
			until(t, s, 1)
			lapse()
			go func() { third <- turns[2].Lock(ctx) }()
			if !tt.works {
				require.ErrorContains(t, <-third, refusal)
				stop()
				require.ErrorIs(t, <-second, context.Canceled)
				return
			}
			// The third was refused on the stream of the second, and is on one of its own.
			until(t, s, 2)
			require.NoError(t, turns[0].Unlock(ctx))
			require.NoError(t, <-second)
			lapse()
			require.NoError(t, turns[1].Unlock(ctx))
			require.NoError(t, <-third)
			require.NoError(t, turns[2].Unlock(ctx))
		})
	}
}

func TestConcurrency_ElectionOutlivesToken(t *testing.T) {
	t.Parallel()
	for name, tt := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, dir := guarded(t), "app/contended"
			lapse, cli := lapser(t, s), app(t, s)
			tt.install(cli)
			first, second := concurrency.NewElection(session(t, cli), dir), concurrency.NewElection(session(t, cli), dir)
			require.NoError(t, first.Campaign(t.Context(), "first"))
			ctx, stop := context.WithCancel(t.Context())
			seen := second.Observe(ctx)
			leader := func() string { return string((<-seen).Kvs[0].GetValue()) }
			defer func() {
				stop()
				for range seen { // until it has ended
				}
			}()
			assert.Equal(t, "first", leader())
			until(t, s, 1)
			lapse()
			campaign := make(chan error, 1)
			go func() { campaign <- second.Campaign(t.Context(), "second") }()
			if !tt.works {
				require.ErrorContains(t, <-campaign, refusal)
				return
			}
			until(t, s, 2)
			require.NoError(t, first.Proclaim(t.Context(), "first again"))
			assert.Equal(t, "first again", leader(), "the watch from before lives on")
			lapse()
			require.NoError(t, first.Resign(t.Context()))
			require.NoError(t, <-campaign)
			assert.Equal(t, "second", leader(), "the next watch was opened on a new stream")
			require.NoError(t, second.Resign(t.Context()))
		})
	}
}

func TestWatch_OutlivesExpiredToken(t *testing.T) {
	t.Parallel()
	s := guarded(t, "--auth-token-ttl=2")
	count := etcdtest.Counter(t)
	cli := app(t, s, count.Option)
	bare := cli.Watcher
	install(cli, true)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	before := cli.Watch(ctx, "app/k", clientv3.WithCreatedNotify())
	require.True(t, (<-before).Created)

	expire(t, s)
	refused := <-bare.Watch(ctx, "app/k", clientv3.WithCreatedNotify())
	require.ErrorContains(t, refused.Err(), refusal, "its stream has an old token")
	after := cli.Watch(ctx, "app/k", clientv3.WithCreatedNotify())
	require.True(t, (<-after).Created)
	_, err := cli.Put(ctx, "app/k", "v")
	require.NoError(t, err)
	for _, watch := range []clientv3.WatchChan{before, after} {
		r := <-watch
		require.NoError(t, r.Err())
		require.Len(t, r.Events, 1)
		assert.Equal(t, "v", string(r.Events[0].Kv.GetValue()))
	}
	assert.Equal(t, 2, count.Count(watches))
}

// expire returns once the server refuses a token that was made after the call and never used. Each
// token is tried once, since its use prolongs it.
func expire(t *testing.T, s *etcdtest.Server) {
	t.Helper()
	cli := s.Client(t)
	stub := pb.NewKVClient(cli.ActiveConnection())
	var tokens []string
	for range 60 {
		got, err := cli.Authenticate(t.Context(), "app", password)
		require.NoError(t, err)
		tokens = append(tokens, got.Token)
	}
	require.Eventually(t, func() bool {
		ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.TokenFieldNameGRPC, tokens[0])
		tokens = tokens[1:]
		_, err := stub.Range(ctx, &pb.RangeRequest{Key: []byte("app/k")})
		return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCInvalidAuthToken)
	}, 15*time.Second, 250*time.Millisecond)
}
