package watch

import (
	"context"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// link is the way from one of client/v3's watchers to the server. Client/v3 opens a stream again when it breaks, at
// once and for ever where the server answers Internal. A link lets it open each stream once, so that the engine
// decides when to try again, and where.
type link struct {
	pb.WatchClient

	avoid string // the peer that has just failed
	again bool   // there may be another

	mu     sync.Mutex
	opened context.Context //nolint:containedctx // names client/v3's stream: it opens each under one context
	peer   string
	broke  error
}

// newLink makes a watcher of client/v3 with a link of its own.
func newLink(cli *clientv3.Client, avoid string) (source, *link) {
	l := &link{WatchClient: pb.NewWatchClient(cli.ActiveConnection()), avoid: avoid, again: len(cli.Endpoints()) > 1}
	return clientv3.NewWatchFromWatchClient(l, cli), l
}

// otherPeers bounds how many streams are opened in the search for another peer than the one to avoid.
const otherPeers = 4

// Watch opens a stream, at another peer than the one to avoid where the balancer offers one.
func (l *link) Watch(ctx context.Context, opts ...grpc.CallOption) (pb.Watch_WatchClient, error) {
	if err := l.claim(ctx); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		own, stop := context.WithCancel(ctx)
		s, err := l.WatchClient.Watch(own, opts...)
		if err != nil {
			stop()
			return nil, l.halt(err)
		}
		at := peerOf(s)
		if l.avoid == "" || at != l.avoid || !l.again || try == otherPeers {
			l.mu.Lock()
			l.peer = at
			l.mu.Unlock()
			return &linkStream{Watch_WatchClient: s, link: l, stop: stop}, nil
		}
		stop()
	}
}

// claim notes that a stream is opened, and refuses when client/v3 opens the same one again.
func (l *link) claim(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened != ctx { // the same one, not an equal one
		l.opened = ctx
		return nil
	}
	text := "the stream broke"
	if l.broke != nil {
		text += ": " + l.broke.Error()
	}
	return status.Error(codes.Aborted, text)
}

// halt makes an error one that client/v3 does not try to mend.
func (l *link) halt(err error) error {
	if c := status.Code(err); c != codes.Unavailable && c != codes.Internal {
		return err
	}
	return status.Error(codes.Aborted, status.Convert(err).Message())
}

// at is the peer of the stream, "" where it is not known.
func (l *link) at() string {
	if l == nil {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.peer
}

func peerOf(s grpc.ClientStream) string {
	if p, ok := peer.FromContext(s.Context()); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}

// linkStream is a stream that remembers how it broke.
type linkStream struct {
	pb.Watch_WatchClient

	link *link
	stop context.CancelFunc
}

// Recv receives; its error is the end of the stream.
func (s *linkStream) Recv() (*pb.WatchResponse, error) {
	resp, err := s.Watch_WatchClient.Recv()
	if err != nil {
		s.link.mu.Lock()
		s.link.broke = err
		s.link.mu.Unlock()
		s.stop()
	}
	return resp, err
}
