package watchstream

import (
	"context"
	"math"
	"reflect"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// dialOptions is how a stream is opened.
type dialOptions struct {
	avoidPeer        string // a peer to avoid
	maxResponseBytes int    // maximum size of a response, 0 for the client's
	paced            bool   // each response is received only after a call of allowReceive
}

// dialer opens the gRPC streams of a client.
type dialer struct {
	cli  *clientv3.Client
	stub pb.WatchClient
	opts []grpc.CallOption

	maxResponseBytes int // the maximum size of a response in opts
}

func newDialer(cli *clientv3.Client) *dialer {
	d := &dialer{cli: cli, stub: pb.NewWatchClient(cli.ActiveConnection()), opts: wire.CallOptions(cli), maxResponseBytes: math.MaxInt32}
	for _, o := range d.opts {
		if most, ok := o.(grpc.MaxRecvMsgSizeCallOption); ok {
			d.maxResponseBytes = most.MaxRecvMsgSize
		}
	}
	return d
}

// maxDialAttempts is the maximum number of streams that dial opens to find a peer other than the
// one to avoid.
const maxDialAttempts = 4

// dial opens a stream, to a peer other than the one to avoid if the balancer offers one.
func (d *dialer) dial(ctx context.Context, o dialOptions) (s pb.Watch_WatchClient, peerAddr string, err error) {
	opts := d.opts
	if o.maxResponseBytes > 0 && o.maxResponseBytes < d.maxResponseBytes {
		opts = append(slices.Clip(opts), grpc.MaxCallRecvMsgSize(o.maxResponseBytes))
	}
	for attempt := 1; ; attempt++ {
		streamCtx, cancel := context.WithCancel(ctx)
		if s, err = d.stub.Watch(streamCtx, opts...); err != nil {
			cancel()
			return nil, "", err
		}
		peerAddr = wire.PeerAddr(s.Context())
		if o.avoidPeer == "" || peerAddr != o.avoidPeer || len(d.cli.Endpoints()) == 1 || attempt == maxDialAttempts {
			context.AfterFunc(ctx, cancel) // the stream ends with ctx
			return s, peerAddr, nil
		}
		cancel()
	}
}

// baseWatcher is a Watcher that decorates client/v3's own, and whose decoration is not needed
// here.
type baseWatcher interface{ BaseWatcher() clientv3.Watcher }

// IsClientV3Watcher reports whether w is client/v3's own Watcher.
func IsClientV3Watcher(w clientv3.Watcher) bool {
	if b, ok := w.(baseWatcher); ok {
		w = b.BaseWatcher()
	}
	return w != nil && reflect.TypeOf(w).String() == "*clientv3.watcher"
}
