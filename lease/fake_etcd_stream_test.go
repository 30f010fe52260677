package lease_test

import (
	"context"
	"net"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// fakeStream is one renewal stream.
type fakeStream struct {
	grpc.ClientStream

	f      *fakeEtcd
	ctx    context.Context
	member string
	broken chan struct{}
	in     chan fakeMessage
	out    chan fakeMessage
}

// fakeMessage is a request or an answer under way.
type fakeMessage struct {
	id, ttl int64
	at      time.Time
	err     error
}

func (f *fakeEtcd) LeaseKeepAlive(ctx context.Context, _ ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.streams) + 1
	var opening error
	if f.onStream != nil {
		opening = f.onStream(n)
	}
	s := &fakeStream{f: f, ctx: ctx, broken: f.broken, in: make(chan fakeMessage, 8192), out: make(chan fakeMessage, 8192)}
	if len(f.members) > 0 {
		s.member = f.members[(n-1)%len(f.members)]
		s.ctx = peer.NewContext(ctx, &peer.Peer{Addr: fakeAddr(s.member)})
	}
	f.streams = append(f.streams, s.member)
	if opening != nil {
		return nil, opening
	}
	if f.fault == refuseRequests {
		return nil, errRefused
	}
	f.openStreams++
	go s.serve()
	return s, nil
}

type fakeAddr string

func (fakeAddr) Network() string  { return "tcp" }
func (a fakeAddr) String() string { return string(a) }

var _ net.Addr = fakeAddr("")

// serve is the server's end of the stream.
func (s *fakeStream) serve() {
	defer func() {
		s.f.mu.Lock()
		s.f.openStreams--
		s.f.mu.Unlock()
	}()
	for {
		select {
		case m := <-s.in:
			if !sleep(s.ctx, time.Until(m.at.Add(s.f.currentLatency()))) {
				return
			}
			if s.f.hasFault(loseRequests, loseBoth) {
				continue
			}
			if s.f.renewDuration > 0 && !sleep(s.ctx, s.f.renewDuration) {
				return
			}
			answer := s.f.renew(m.id, s.member)
			if answer.err == errStuck { //nolint:errorlint // the very value
				<-s.ctx.Done()
				return
			}
			s.out <- answer
		case <-s.ctx.Done():
			return
		}
	}
}

func (f *fakeEtcd) renew(id int64, member string) fakeMessage {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewals++
	m := fakeMessage{id: id, at: time.Now()}
	if f.onRenewal != nil {
		if m.err = f.onRenewal(id, member); m.err != nil {
			return m
		}
	}
	if l := f.liveLease(id); l != nil {
		m.ttl = l.ttl
		l.expires = m.at.Add(f.serverTTL(l.ttl))
	}
	return m
}

func (s *fakeStream) Context() context.Context { return s.ctx }

func (s *fakeStream) Send(r *pb.LeaseKeepAliveRequest) error {
	select {
	case s.in <- fakeMessage{id: r.GetID(), at: time.Now()}:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// responseDelay is what a slow network adds to an answer.
const responseDelay = 7 * time.Second

// errFrozen means that a renewal is not answered, because the member has been stopped.
var errFrozen = status.Error(codes.Unknown, "frozen")

// errStuck means that a renewal and all later ones of its stream are not answered, as in etcd while
// it waits for an expired lease to be revoked.
var errStuck = status.Error(codes.Unknown, "stuck")

func (s *fakeStream) Recv() (*pb.LeaseKeepAliveResponse, error) {
	for {
		select {
		case m := <-s.out:
			wait := s.f.currentLatency()
			if s.f.hasFault(delayResponses) {
				wait += responseDelay
			}
			if !sleep(s.ctx, time.Until(m.at.Add(wait))) {
				return nil, status.FromContextError(s.ctx.Err()).Err()
			}
			switch {
			case s.f.hasFault(loseResponses, loseBoth), m.err == errFrozen: //nolint:errorlint // the very value
			case m.err != nil:
				return nil, m.err
			default:
				return &pb.LeaseKeepAliveResponse{ID: m.id, TTL: m.ttl}, nil
			}
		case <-s.broken:
			return nil, status.Error(codes.Unavailable, "connection reset")
		case <-s.ctx.Done():
			return nil, status.FromContextError(s.ctx.Err()).Err()
		}
	}
}
