package decorate_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// refuser is a server that refuses the token of every watch, and has the next refusal ready on the
// same stream.
type refuser struct {
	pb.UnimplementedWatchServer

	asked    atomic.Int64
	streams  atomic.Int64
	endpoint string
}

// Watch refuses.
func (r *refuser) Watch(stream pb.Watch_WatchServer) error {
	r.streams.Add(1)
	for {
		if _, err := stream.Recv(); err != nil {
			return nil //nolint:nilerr // the client has left
		}
		r.asked.Add(1)
		for range 2 {
			err := stream.Send(&pb.WatchResponse{
				Header: &pb.ResponseHeader{}, WatchId: clientv3.InvalidWatchID,
				Created: true, Canceled: true, CancelReason: rpctypes.ErrGRPCInvalidAuthToken.Error(),
			})
			if err != nil {
				return err
			}
		}
	}
}

func startRefuser(t *testing.T) *refuser {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r, srv := &refuser{endpoint: l.Addr().String()}, grpc.NewServer()
	pb.RegisterWatchServer(srv, r)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		srv.Stop()
		wg.Wait()
	})
	return r
}

func TestWatcher_DeliversRefusalAfterMaxAttempts(t *testing.T) {
	t.Parallel()
	r := startRefuser(t)
	cli := etcdtest.NewClient(t, []string{r.endpoint}, hardened(t))
	install(cli, true)
	w := cli.Watch(t.Context(), "k")
	last := <-w
	require.ErrorContains(t, last.Err(), refusal)
	_, open := <-w
	assert.False(t, open)
	assert.EqualValues(t, 4, r.streams.Load(), "the first and three more")
}

// client/v3 alone loses one of two watches that are refused together: its Watch, those that come
// after it on the stream, and Close wait for ever.
func TestWatcher_DeliversSimultaneousRefusals(t *testing.T) {
	t.Parallel()
	r := startRefuser(t)
	for range 20 {
		cli := etcdtest.NewClient(t, []string{r.endpoint}, hardened(t))
		install(cli, true)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				told := <-cli.Watch(t.Context(), "k")
				assert.ErrorContains(t, told.Err(), refusal)
			})
		}
		wg.Wait()
		require.NoError(t, cli.Close())
	}
}
