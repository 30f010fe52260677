package lease_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/lease"
)

// fault is what a network does to a message.
type fault int

const (
	none     fault = iota
	loseUp         // requests do not arrive
	loseDown       // requests are carried out, answers are lost
	loseBoth
	refuse // connections break, and new ones are refused
	delay  // answers take much longer
)

func (f fault) String() string {
	return [...]string{"none", "requests lost", "answers lost", "both lost", "refused", "answers late"}[f]
}

var errRefused = status.Error(codes.Unavailable, "connection refused")

// fakeEtcd is etcd's lease service behind a network, in the fake time of a synctest bubble. It expires leases exactly on
// time, which etcd does not: nobody can do worse to a client.
type fakeEtcd struct {
	work    time.Duration // of the server, for each renewal; a stream is served one by one
	drift   float64       // how fast the server's clock runs; 0 is 1
	least   int64         // TTL
	members []string      // addresses, in the order in which they are picked

	mu       sync.Mutex
	latency  time.Duration // each way
	leases   map[int64]*fakeLease
	fault    fault
	broken   chan struct{} // closed when connections break
	renewal  func(id int64, member string) error
	opening  func(n int) error
	dropped  map[string]int // answers still to be lost, by method
	grants   int
	revokes  int
	renewals int
	streams  []string // members, in the order in which streams were opened to them
	open     int      // streams
}

type fakeLease struct {
	ttl     int64
	expires time.Time
	keys    [][]byte
}

func newFake() *fakeEtcd {
	return &fakeEtcd{least: 2, leases: map[int64]*fakeLease{}, broken: make(chan struct{}), dropped: map[string]int{}}
}

// manager returns a manager over the fake, closed with the test. It must be called inside a bubble.
func (f *fakeEtcd) manager(t *testing.T, opts ...lease.Option) *lease.Manager {
	t.Helper()
	cli := clientv3.NewCtxClient(t.Context())
	m := lease.New(cli, append([]lease.Option{lease.WithStub(f)}, opts...)...)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// slow makes every message take a time, each way.
func (f *fakeEtcd) slow(latency time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.latency = latency
}

// lag is how long messages take.
func (f *fakeEtcd) lag() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.latency
}

// refusing has renewals fail as the function says.
func (f *fakeEtcd) refusing(renewal func(id int64, member string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewal = renewal
}

// set puts a fault on the network, or takes it off.
func (f *fakeEtcd) set(now fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = now
	if now == refuse {
		close(f.broken)
		f.broken = make(chan struct{})
	}
}

func (f *fakeEtcd) is(faults ...fault) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(faults, f.fault)
}

// drop loses the next answers of a method.
func (f *fakeEtcd) drop(method string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropped[method] = n
}

func (f *fakeEtcd) ttl(seconds int64) time.Duration {
	d := time.Duration(seconds) * time.Second
	if f.drift > 0 {
		d = time.Duration(float64(d) / f.drift)
	}
	return d
}

// alive is the lease, if it has not expired.
func (f *fakeEtcd) alive(id int64) *fakeLease {
	if l := f.leases[id]; l != nil && time.Now().Before(l.expires) {
		return l
	}
	delete(f.leases, id)
	return nil
}

// expiry is when a lease will expire, or has; the zero time when it was revoked or never granted.
func (f *fakeEtcd) expiry(id clientv3.LeaseID) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.leases[int64(id)]; l != nil {
		return l.expires
	}
	return time.Time{}
}

// living is how many leases there are.
func (f *fakeEtcd) living() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for id := range f.leases {
		if f.alive(id) != nil {
			n++
		}
	}
	return n
}

// counted is how often things were asked for.
func (f *fakeEtcd) counted() (grants, revokes, renewals, streams int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.grants, f.revokes, f.renewals, len(f.streams)
}

// call carries a unary request there, and its answer back.
func (f *fakeEtcd) call(ctx context.Context, method string, serve func() error) error {
	if f.is(refuse) {
		return errRefused
	}
	if !sleep(ctx, f.lag()) || f.is(loseUp, loseBoth) {
		return hang(ctx)
	}
	f.mu.Lock()
	err := serve()
	lost := f.dropped[method] > 0
	if lost {
		f.dropped[method]--
	}
	f.mu.Unlock()
	if lost {
		return status.Error(codes.Unavailable, "connection reset")
	}
	if !sleep(ctx, f.lag()) || f.is(loseDown, loseBoth) {
		return hang(ctx)
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 { // in a bubble, under the race detector, a timer that has expired already can bring the runtime down
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func hang(ctx context.Context) error {
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

func (f *fakeEtcd) LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest, _ ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	ttl := max(in.GetTTL(), f.least)
	err := f.call(ctx, "grant", func() error {
		f.grants++
		if f.alive(in.GetID()) != nil {
			return rpctypes.ErrGRPCLeaseExist
		}
		f.leases[in.GetID()] = &fakeLease{ttl: ttl, expires: time.Now().Add(f.ttl(ttl))}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &pb.LeaseGrantResponse{ID: in.GetID(), TTL: ttl}, nil
}

func (f *fakeEtcd) LeaseRevoke(ctx context.Context, in *pb.LeaseRevokeRequest, _ ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
	err := f.call(ctx, "revoke", func() error {
		f.revokes++
		if f.alive(in.GetID()) == nil {
			return rpctypes.ErrGRPCLeaseNotFound
		}
		delete(f.leases, in.GetID())
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &pb.LeaseRevokeResponse{}, nil
}

func (f *fakeEtcd) LeaseTimeToLive(ctx context.Context, in *pb.LeaseTimeToLiveRequest, _ ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error) {
	out := &pb.LeaseTimeToLiveResponse{ID: in.GetID(), TTL: -1}
	err := f.call(ctx, "describe", func() error {
		if l := f.alive(in.GetID()); l != nil {
			out.TTL, out.GrantedTTL, out.Keys = int64(time.Until(l.expires)/time.Second), l.ttl, l.keys
		}
		return nil
	})
	return out, err
}

func (f *fakeEtcd) LeaseLeases(context.Context, *pb.LeaseLeasesRequest, ...grpc.CallOption) (*pb.LeaseLeasesResponse, error) {
	return nil, status.Error(codes.Unimplemented, "not needed")
}

// fakeStream is one renewal stream.
type fakeStream struct {
	grpc.ClientStream

	f      *fakeEtcd
	ctx    context.Context
	member string
	broken chan struct{}
	in     chan message
	out    chan message
}

// message is a request or an answer under way.
type message struct {
	id, ttl int64
	at      time.Time
	err     error
}

func (f *fakeEtcd) LeaseKeepAlive(ctx context.Context, _ ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.streams) + 1
	var opening error
	if f.opening != nil {
		opening = f.opening(n)
	}
	s := &fakeStream{f: f, ctx: ctx, broken: f.broken, in: make(chan message, 8192), out: make(chan message, 8192)}
	if len(f.members) > 0 {
		s.member = f.members[(n-1)%len(f.members)]
		s.ctx = peer.NewContext(ctx, &peer.Peer{Addr: address(s.member)})
	}
	f.streams = append(f.streams, s.member)
	if opening != nil {
		return nil, opening
	}
	if f.fault == refuse {
		return nil, errRefused
	}
	f.open++
	go s.serve()
	return s, nil
}

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

var _ net.Addr = address("")

// serve is the server's end of the stream.
func (s *fakeStream) serve() {
	defer func() {
		s.f.mu.Lock()
		s.f.open--
		s.f.mu.Unlock()
	}()
	for {
		select {
		case m := <-s.in:
			if !sleep(s.ctx, time.Until(m.at.Add(s.f.lag()))) {
				return
			}
			if s.f.is(loseUp, loseBoth) {
				continue
			}
			if s.f.work > 0 && !sleep(s.ctx, s.f.work) {
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

func (f *fakeEtcd) renew(id int64, member string) message {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewals++
	m := message{id: id, at: time.Now()}
	if f.renewal != nil {
		if m.err = f.renewal(id, member); m.err != nil {
			return m
		}
	}
	if l := f.alive(id); l != nil {
		m.ttl = l.ttl
		l.expires = m.at.Add(f.ttl(l.ttl))
	}
	return m
}

func (s *fakeStream) Context() context.Context { return s.ctx }

func (s *fakeStream) Send(r *pb.LeaseKeepAliveRequest) error {
	select {
	case s.in <- message{id: r.GetID(), at: time.Now()}:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// late is what a slow network adds to an answer.
const late = 7 * time.Second

// errFrozen, as the answer to a renewal, is none: the member has been stopped.
var errFrozen = status.Error(codes.Unknown, "frozen")

// errStuck, as the answer to a renewal, holds up all that come after it on the stream, as etcd does while it waits for
// an expired lease to be revoked.
var errStuck = status.Error(codes.Unknown, "stuck")

func (s *fakeStream) Recv() (*pb.LeaseKeepAliveResponse, error) {
	for {
		select {
		case m := <-s.out:
			wait := s.f.lag()
			if s.f.is(delay) {
				wait += late
			}
			if !sleep(s.ctx, time.Until(m.at.Add(wait))) {
				return nil, status.FromContextError(s.ctx.Err()).Err()
			}
			switch {
			case s.f.is(loseDown, loseBoth), m.err == errFrozen: //nolint:errorlint // the very value
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
