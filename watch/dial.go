package watch

import (
	"context"
	"math"
	"reflect"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// dialer opens the gRPC streams of a client.
type dialer struct {
	cli  *clientv3.Client
	stub pb.WatchClient
	opts []grpc.CallOption

	limit int // the maximum size of a response in opts
}

func newDialer(cli *clientv3.Client) *dialer {
	d := &dialer{cli: cli, stub: pb.NewWatchClient(cli.ActiveConnection()), opts: wire.CallOptions(cli), limit: math.MaxInt32}
	for _, o := range d.opts {
		if most, ok := o.(grpc.MaxRecvMsgSizeCallOption); ok {
			d.limit = most.MaxRecvMsgSize
		}
	}
	return d
}

// otherPeers is the maximum number of streams that dial opens to find a peer other than the one to
// avoid.
const otherPeers = 4

// dial opens a stream, to a peer other than the one to avoid if the balancer offers one.
func (d *dialer) dial(ctx context.Context, o opening) (s pb.Watch_WatchClient, at string, err error) {
	opts := d.opts
	if o.limit > 0 && o.limit < d.limit {
		opts = append(slices.Clip(opts), grpc.MaxCallRecvMsgSize(o.limit))
	}
	for try := 1; ; try++ {
		own, stop := context.WithCancel(ctx)
		if s, err = d.stub.Watch(own, opts...); err != nil {
			stop()
			return nil, "", err
		}
		at = peerOf(s)
		if o.avoid == "" || at != o.avoid || len(d.cli.Endpoints()) == 1 || try == otherPeers {
			context.AfterFunc(ctx, stop) // the stream ends with ctx
			return s, at, nil
		}
		stop()
	}
}

func peerOf(s grpc.ClientStream) string {
	if p, ok := peer.FromContext(s.Context()); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}

// basedWatcher is a Watcher that decorates client/v3's own, and whose decoration is not needed
// here.
type basedWatcher interface{ BaseWatcher() clientv3.Watcher }

// official reports whether w is client/v3's own Watcher.
func official(w clientv3.Watcher) bool {
	if b, ok := w.(basedWatcher); ok {
		w = b.BaseWatcher()
	}
	return w != nil && reflect.TypeOf(w).String() == "*clientv3.watcher"
}
