package lease

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// link is one renewal stream, from the wish for it to its end.
type link struct {
	ctx    context.Context //nolint:containedctx // of the stream
	cancel context.CancelFunc
	begun  time.Time

	// Set by the loop when the stream is there.
	stream pb.Lease_LeaseKeepAliveClient // nil until then
	peer   string                        // "" when it cannot be told
}

// event is what has become of a link: it is there, it has an answer, or it has failed.
type event struct {
	link   *link
	stream pb.Lease_LeaseKeepAliveClient
	peer   string
	answer *pb.LeaseKeepAliveResponse
	err    error
}

// read opens the stream and reports what comes of it, until it fails or the link is cancelled. tries is how many streams
// it may open to get away from the peer to avoid.
func (k *link) read(svc service, avoid string, tries int, events chan<- event) {
	stream, at, drop, err := dial(k.ctx, svc, avoid, tries)
	defer drop()
	if !k.post(events, event{stream: stream, peer: at, err: err}) || err != nil {
		return
	}
	for {
		answer, err := stream.Recv()
		if !k.post(events, event{answer: answer, err: err}) || err != nil {
			return
		}
	}
}

// post hands an event to the loop, which has no use for it once it has cancelled the link.
func (k *link) post(events chan<- event, e event) bool {
	e.link = k
	select {
	case events <- e:
		return true
	case <-k.ctx.Done():
		return false
	}
}

// dial opens a stream at another peer than the one to avoid, or at any after some tries. gRPC chooses among the members
// that it is connected to in turn.
// drop has to be called when the stream, if there is one, is no longer needed.
func dial(ctx context.Context, svc service, avoid string, tries int) (stream pb.Lease_LeaseKeepAliveClient, at string, drop context.CancelFunc, err error) {
	for n := 1; ; n++ {
		ctx, drop := context.WithCancel(ctx)
		stream, err = svc.LeaseKeepAlive(clientv3.WithRequireLeader(ctx), grpc.WaitForReady(true))
		if err != nil {
			return nil, "", drop, err
		}
		at = peerOf(stream.Context())
		if at == "" || at != avoid || n >= tries {
			return stream, at, drop, nil
		}
		drop()
	}
}

// peerOf is the address of the member at the other end of a stream.
func peerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
