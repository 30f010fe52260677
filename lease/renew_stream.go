package lease

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// renewStream is one renewal stream, from the wish for it to its end.
type renewStream struct {
	ctx       context.Context //nolint:containedctx // of the stream
	cancel    context.CancelFunc
	startedAt time.Time

	// Set by the loop when the stream is there.
	client   pb.Lease_LeaseKeepAliveClient // nil until then
	peerAddr string                        // "" when it cannot be told
}

// streamEvent is what has become of a link: it is there, it has an answer, or it has failed.
type streamEvent struct {
	from     *renewStream
	client   pb.Lease_LeaseKeepAliveClient
	peerAddr string
	response *pb.LeaseKeepAliveResponse
	err      error
}

// run opens the stream and reports what comes of it, until it fails or the link is cancelled. tries is how many streams
// it may open to get away from the peer to avoid.
func (s *renewStream) run(svc service, avoidPeer string, maxAttempts int, events chan<- streamEvent) {
	client, peerAddr, cancel, err := openStream(s.ctx, svc, avoidPeer, maxAttempts)
	defer cancel()
	if !s.report(events, streamEvent{client: client, peerAddr: peerAddr, err: err}) || err != nil {
		return
	}
	for {
		resp, err := client.Recv()
		if !s.report(events, streamEvent{response: resp, err: err}) || err != nil {
			return
		}
	}
}

// report hands an event to the loop, which has no use for it once it has cancelled the link.
func (s *renewStream) report(events chan<- streamEvent, e streamEvent) bool {
	e.from = s
	select {
	case events <- e:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// openStream opens a stream at another peer than the one to avoid, or at any after some tries. gRPC chooses among the members
// that it is connected to in turn.
// drop has to be called when the stream, if there is one, is no longer needed.
func openStream(ctx context.Context, svc service, avoidPeer string, maxAttempts int) (client pb.Lease_LeaseKeepAliveClient, addr string, cancel context.CancelFunc, err error) {
	for attempt := 1; ; attempt++ {
		ctx, cancel := context.WithCancel(ctx)
		client, err = svc.LeaseKeepAlive(clientv3.WithRequireLeader(ctx), grpc.WaitForReady(true))
		if err != nil {
			return nil, "", cancel, err
		}
		addr = peerAddrOf(client.Context())
		if addr == "" || addr != avoidPeer || attempt >= maxAttempts {
			return client, addr, cancel, nil
		}
		cancel()
	}
}

// peerAddrOf is the address of the member at the other end of a stream.
func peerAddrOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
