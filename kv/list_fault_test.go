package kv_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
)

func fillStore(t *testing.T, s *kv.Store, dir string, n, size int) {
	t.Helper()
	ops := make([]kv.Op, n)
	for i := range ops {
		ops[i] = kv.OpPut(fmt.Sprintf("%s%06d", dir, i), make([]byte, size))
	}
	_, err := s.Batch(t.Context(), ops...)
	require.NoError(t, err)
}

// The connection breaks again and again while a listing goes on and everything in it is rewritten:
// it still is one revision, whole, and in order.
func TestList_SurvivesCutConnectionsAtOneRevision(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		s := newProxyBench(t, how)
		const n = 5000
		fillStore(t, s.Store, "d/", n, 4<<10)
		rev, err := s.Put(t.Context(), "d/~", nil)
		require.NoError(t, err)
		got := 0
		last := ""
		for e, err := range s.List(t.Context(), "d/") {
			require.NoError(t, err)
			require.LessOrEqual(t, e.ModRevision, rev)
			require.Less(t, last, e.Key)
			last = e.Key
			got++
			if got%600 == 0 {
				s.proxy.Cut()
				_, err := s.truth.Put(t.Context(), fmt.Sprintf("app/d/%06d", got+1), "rewritten")
				require.NoError(t, err)
			}
		}
		assert.Equal(t, n+1, got)
	})
}

func TestList_Compaction(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	s := etcdtest.Must(kv.New(srv.Client(t), kv.WithNamespace("app")))
	const n = 4000
	fillStore(t, s, "d/", n, 8<<10)
	t.Log("a compacted listing says so once entries were yielded")
	{
		seen := 0
		var last error
		// A reverse listing reads pages, and so sends several requests.
		for _, err := range s.List(t.Context(), "d/", kv.WithReverse()) {
			if last = err; err != nil {
				break
			}
			seen++
			if seen == 1 {
				_, err := s.Put(t.Context(), "x", nil)
				require.NoError(t, err)
				srv.Compact(0)
			}
		}
		require.ErrorIs(t, last, kv.ErrCompacted)
		assert.Less(t, seen, n)
	}
	for _, err := range s.List(t.Context(), "d/", kv.WithRevision(1)) {
		require.ErrorIs(t, err, kv.ErrCompacted)
	}
	t.Log("one that is collected is started again")
	{
		m, err := s.Map(t.Context(), "d/")
		require.NoError(t, err)
		assert.Len(t, m, n)
	}
}

// The first attempt of Map is interrupted by a compaction between its two reads.
func TestMap_IsOneOperationIfCompacted(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	truth := srv.Client(t)
	var compact sync.Once
	cli := srv.Client(t, func(cfg *clientv3.Config) {
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(func(
			ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
		) error {
			if r, isRange := req.(*pb.RangeRequest); isRange && r.GetRevision() > 0 {
				compact.Do(func() {
					_, err := truth.Put(ctx, "other", "")
					assert.NoError(t, err)
					srv.Compact(0)
				})
			}
			return invoke(ctx, method, req, reply, cc, opts...)
		}))
	})
	var results []scope.Result
	observe := scopetest.Option[kv.Option](scope.Hooks{Operation: func(ctx context.Context, _ scope.Operation) (context.Context, func(scope.Result)) {
		return ctx, func(r scope.Result) { results = append(results, r) }
	}})
	s := etcdtest.Must(kv.New(cli, kv.WithNamespace("app"), observe))
	rev, err := s.Put(t.Context(), "a", nil)
	require.NoError(t, err)
	results = nil
	m, err := s.Map(t.Context(), "", kv.WithReverse()) // in pages of one revision
	require.NoError(t, err)
	assert.Len(t, m, 1)
	require.Len(t, results, 1)
	require.NoError(t, results[0].Err)
	assert.Equal(t, rev+1, results[0].Revision, "of the second attempt")
}

func TestList_TimeoutExcludesLoopBody(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t)
	s := etcdtest.Must(kv.New(cli, kv.WithNamespace(etcdtest.Prefix(t)), kv.WithTimeouts(time.Second, 0)))
	fillStore(t, s, "d/", 300, 32<<10)
	got := 0
	for _, err := range s.List(context.WithoutCancel(t.Context()), "d/") {
		require.NoError(t, err)
		got++
		if got%100 == 1 {
			timer := time.NewTimer(1200 * time.Millisecond)
			<-timer.C
		}
	}
	assert.Equal(t, 300, got)
}
