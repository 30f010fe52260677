package decorate_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// script is a Watcher that answers each watch with the next of its plays.
type script struct {
	clientv3.Watcher

	plays [][]clientv3.WatchResponse
	asked []clientv3.Op
}

// Watch plays.
func (s *script) Watch(_ context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	s.asked = append(s.asked, clientv3.OpWatch(key, opts...))
	play := s.plays[0]
	s.plays = s.plays[1:]
	c := make(chan clientv3.WatchResponse, len(play))
	for _, r := range play {
		c <- r
	}
	close(c)
	return c
}

func begun(rev int64) clientv3.WatchResponse {
	return clientv3.WatchResponse{Header: &pb.ResponseHeader{Revision: rev}, Created: true}
}

func progress(rev int64) clientv3.WatchResponse {
	return clientv3.WatchResponse{Header: &pb.ResponseHeader{Revision: rev}}
}

func event(key, value string, rev int64) clientv3.WatchResponse {
	ev := &clientv3.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: rev}}
	return clientv3.WatchResponse{Header: &pb.ResponseHeader{Revision: rev}, Events: []*clientv3.Event{ev}}
}

func refusedFor(reason error) clientv3.WatchResponse {
	return clientv3.WatchResponse{Header: &pb.ResponseHeader{}, Canceled: true, CancelReason: reason.Error()}
}

// scripted returns a client of the shared server whose first stream follows a script, and the
// revisions of four puts of "1" to "4" to a key.
func scripted(t *testing.T, play func(key string, revs []int64) []clientv3.WatchResponse) (*clientv3.Client, string) {
	t.Helper()
	cli, key := etcdtest.Client(t, hardened(t)), etcdtest.Prefix(t)+"k"
	var revs []int64
	for _, v := range []string{"1", "2", "3", "4"} {
		revs = append(revs, put(t, cli, key, v))
	}
	cli.Watcher = &script{Watcher: cli.Watcher, plays: [][]clientv3.WatchResponse{play(key, revs)}}
	install(cli, true)
	return cli, key
}

func TestWatcher_ContinuesAfterRefusalInMidstream(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		play  func(key string, revs []int64) []clientv3.WatchResponse
		first int
		then  []string
	}{
		"after an event": {func(key string, revs []int64) []clientv3.WatchResponse {
			return []clientv3.WatchResponse{begun(revs[0] - 1), event(key, "1", revs[0]), event(key, "2", revs[1]), refusedFor(rpctypes.ErrGRPCInvalidAuthToken)}
		}, 2, []string{"1", "2", "3", "4"}},
		"after a notification of progress": {func(_ string, revs []int64) []clientv3.WatchResponse {
			return []clientv3.WatchResponse{begun(revs[0] - 1), progress(revs[1]), refusedFor(rpctypes.ErrGRPCAuthOldRevision)}
		}, 0, []string{"3", "4"}},
		"before anything came": {func(_ string, revs []int64) []clientv3.WatchResponse {
			return []clientv3.WatchResponse{begun(revs[0]), refusedFor(rpctypes.ErrGRPCUserEmpty)}
		}, 0, []string{"2", "3", "4"}},
	}
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cli, key := scripted(t, tt.play)
			assert.Equal(t, tt.then, values(t, cli.Watch(t.Context(), key), len(tt.then)))
		})
	}
}

func TestWatcher_DeliversPermissionErrorAtOnce(t *testing.T) {
	t.Parallel()
	cli, key := scripted(t, func(string, []int64) []clientv3.WatchResponse {
		return []clientv3.WatchResponse{refusedFor(rpctypes.ErrGRPCPermissionDenied)}
	})
	w := cli.Watch(t.Context(), key)
	r := <-w
	require.ErrorContains(t, r.Err(), "permission denied")
	_, open := <-w
	assert.False(t, open)
}
