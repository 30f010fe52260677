package lease

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// renewStream is a renewal stream, from the request to open it until it ends.
type renewStream struct {
	ctx       context.Context //nolint:containedctx // of the stream
	cancel    context.CancelFunc
	startedAt time.Time

	// Set by the loop once the stream is open.
	client   pb.Lease_LeaseKeepAliveClient // nil before
	peerAddr string                        // "" when it cannot be told
}

// streamEvent means that a stream was opened, that it received a response, or that it failed.
type streamEvent struct {
	from     *renewStream
	client   pb.Lease_LeaseKeepAliveClient
	peerAddr string
	response *pb.LeaseKeepAliveResponse
	err      error
}

// run opens the stream and sends its events to the loop until it fails or is canceled. maxAttempts
// bounds how many streams it opens to find a peer other than avoidPeer.
func (s *renewStream) run(svc service, avoidPeer string, maxAttempts int, events chan<- streamEvent) {
	client, peerAddr, cancel, err := openStream(s.ctx, svc, avoidPeer, maxAttempts)
	defer cancel()
	if !s.sendEvent(events, streamEvent{client: client, peerAddr: peerAddr, err: err}) || err != nil {
		return
	}
	for {
		resp, err := client.Recv()
		if !s.sendEvent(events, streamEvent{response: resp, err: err}) || err != nil {
			return
		}
	}
}

// sendEvent sends an event to the loop. It returns false if the stream was canceled.
func (s *renewStream) sendEvent(events chan<- streamEvent, e streamEvent) bool {
	e.from = s
	select {
	case events <- e:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// openStream opens a stream to a peer other than avoidPeer. gRPC picks the connected members in
// turn; after maxAttempts openStream accepts any of them. The caller must call cancel when it no
// longer needs the stream, also after an error.
func openStream(ctx context.Context, svc service, avoidPeer string, maxAttempts int) (client pb.Lease_LeaseKeepAliveClient, addr string, cancel context.CancelFunc, err error) {
	for attempt := 1; ; attempt++ {
		ctx, cancel := context.WithCancel(ctx)
		client, err = svc.LeaseKeepAlive(clientv3.WithRequireLeader(ctx), grpc.WaitForReady(true))
		if err != nil {
			return nil, "", cancel, err
		}
		addr = wire.PeerAddr(client.Context())
		if addr == "" || addr != avoidPeer || attempt >= maxAttempts {
			return client, addr, cancel, nil
		}
		cancel()
	}
}
