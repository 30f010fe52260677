package watch_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

// serverWatchers returns the number of watches on the server.
func serverWatchers(s *etcdtest.Server) int {
	return int(s.Metric("etcd_debugging_mvcc_watcher_total"))
}

func TestWatcher_SubscribersShareServerWatch(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cli := srv.Client(t)
	w := newWatcher(t, cli)
	const n = 1000
	var got atomic.Int64
	subs := make([]*watch.Subscription, n)
	for i := range subs {
		opts := []watch.Option{watch.WithBuffer(64 + i)}
		if i%100 == 0 {
			opts = append(opts, watch.WithSnapshot())
		}
		sub, err := w.Subscribe(watch.Prefix("w/"), func(_ context.Context, b watch.Batch) error {
			got.Add(int64(len(b.Events)))
			return nil
		}, opts...)
		require.NoError(t, err)
		subs[i] = sub
	}
	for _, sub := range subs {
		ready(t, sub)
	}
	var last int64
	for i := range 10 {
		last = mustPut(t, cli, "w/k", strconv.Itoa(i))
	}
	for _, sub := range subs {
		require.NoError(t, sub.WaitRevision(t.Context(), last))
	}
	assert.Equal(t, int64(10*n), got.Load())
	assert.Equal(t, 1, serverWatchers(srv))
	s := w.Stats()
	assert.Equal(t, []int{n, 1, 1}, []int{s.Active, s.ServerWatches, s.Streams})
	assert.Equal(t, uint64(10*n), s.Events)
	require.Len(t, w.ServerWatches(), 1)
	assert.Equal(t, n, w.ServerWatches()[0].Watches)
}

func TestWatcher_LeavesNothingAtServer(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cli := srv.Client(t)
	w := newWatcher(t, cli)
	n := size(300, 1000)
	subs := make([]*watch.Subscription, n)
	for i := range subs {
		sub, err := w.Subscribe(watch.Key(fmt.Sprintf("w/%04d", i)), func(context.Context, watch.Batch) error { return nil })
		require.NoError(t, err)
		subs[i] = sub
	}
	for _, sub := range subs {
		ready(t, sub)
	}
	assert.Equal(t, n, serverWatchers(srv))
	assert.LessOrEqual(t, w.Stats().Streams, 16)
	for _, sub := range subs {
		require.NoError(t, sub.Close())
	}
	assert.Zero(t, w.Active())
	require.Eventually(t, func() bool { return serverWatchers(srv) == 0 }, within, 10*time.Millisecond)
	assert.Zero(t, w.Stats().Streams)
}

func TestWatcher_ChurnLeavesNothing(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cli := srv.Client(t)
	w := newWatcher(t, cli)
	var wg sync.WaitGroup
	for g := range 10 {
		wg.Go(func() {
			for i := range 50 {
				sel := watch.Prefix(fmt.Sprintf("w/%d/", (g+i)%5))
				switch i % 4 {
				case 0: // at once
					sub, err := w.Subscribe(sel, func(context.Context, watch.Batch) error { return nil }, watch.WithSnapshot())
					if assert.NoError(t, err) {
						assert.NoError(t, sub.Close())
					}
				case 1: // when it is live
					sub, err := w.Subscribe(sel, func(context.Context, watch.Batch) error { return nil })
					if assert.NoError(t, err) {
						select {
						case <-sub.Ready():
						case <-time.NewTimer(within).C:
							assert.Fail(t, "not ready")
						}
						assert.NoError(t, sub.Close())
					}
				case 2: // by leaving the loop
					for _, err := range w.Watch(t.Context(), sel, watch.WithSnapshot()) {
						assert.NoError(t, err)
						break
					}
				case 3: // by its context
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
					for _, err := range w.Watch(ctx, sel) {
						assert.ErrorIs(t, err, context.DeadlineExceeded)
					}
					cancel()
				}
			}
		})
	}
	wg.Wait()
	assert.Zero(t, w.Active())
	assert.Zero(t, w.Stats().ServerWatches)
	require.NoError(t, w.Close())
	require.Eventually(t, func() bool { return serverWatchers(srv) == 0 }, within, 10*time.Millisecond)
}

func TestWatcher_SurvivesExpiredTokensAndRestarts(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, etcdtest.WithFlags("--auth-token-ttl", "2"))
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "u", Password: "p", Grants: []etcdtest.Grant{etcdtest.ReadWrite("w/")}})
	root := srv.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	w := newWatcher(t, srv.Client(t, etcdtest.As("u", "p")))
	var got []*recorder
	open := func(from, to int) {
		for i := from; i < to; i++ {
			_, r := subscribe(t, w, watch.Key(fmt.Sprintf("w/%02d", i)), watch.WithSnapshot())
			got = append(got, r)
		}
	}
	open(0, 16)
	time.Sleep(4 * time.Second) // the tokens of these streams have expired
	open(16, 20)
	check := func() {
		for i, r := range got {
			r.revision(t, put(t, root, fmt.Sprintf("w/%02d", i), "v"))
		}
	}
	check()
	srv.Restart()
	check()
	assert.LessOrEqual(t, w.Stats().Streams, 16)
}

// put retries, because a restart invalidates the token of the client.
func put(t *testing.T, cli *clientv3.Client, key, value string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		resp, err := cli.Put(ctx, key, value)
		if err == nil {
			return resp.Header.Revision
		}
		require.NoError(t, ctx.Err(), "%v", err)
	}
}

func TestWatcher_ReturnsErrPermission(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "u", Password: "p", Grants: []etcdtest.Grant{etcdtest.Read("w/")}})
	root := srv.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	w := newWatcher(t, srv.Client(t, etcdtest.As("u", "p")))
	for name, opts := range map[string][]watch.Option{
		"events": nil, "state": {watch.WithSnapshot()}, "after": {watch.WithAfter(1)}, "both": {watch.WithAfter(1), watch.WithSnapshot()},
	} {
		for _, err := range w.Watch(t.Context(), watch.Prefix("secret/"), opts...) {
			require.ErrorIs(t, err, watch.ErrPermission, name)
		}
	}
	_, got := subscribe(t, w, watch.Prefix("w/"))
	got.revision(t, mustPut(t, root, "w/k", "v"))
	_, err := root.RoleRevokePermission(t.Context(), "u", "w/", clientv3.GetPrefixRangeEnd("w/"))
	require.NoError(t, err)
	for _, err := range w.Watch(t.Context(), watch.Prefix("w/other/")) {
		require.ErrorIs(t, err, watch.ErrPermission)
	}
}

// fakeBrokenServer answers every stream with Internal.
type fakeBrokenServer struct {
	pb.UnimplementedWatchServer

	streams atomic.Int64
}

func (b *fakeBrokenServer) Watch(pb.Watch_WatchServer) error {
	b.streams.Add(1)
	return status.Error(codes.Internal, "no luck")
}

func TestWatcher_BacksOffWhileServerReturnsInternal(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &fakeBrokenServer{}
	srv := grpc.NewServer()
	pb.RegisterWatchServer(srv, b)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	w := newWatcher(t, etcdtest.NewClient(t, []string{l.Addr().String()}))
	sub, err := w.Subscribe(watch.Prefix(""), func(context.Context, watch.Batch) error { return nil })
	require.NoError(t, err)
	time.Sleep(3 * time.Second)
	n := b.streams.Load()
	assert.LessOrEqual(t, n, int64(20))
	assert.Positive(t, n)
	require.NoError(t, sub.Close())
}
