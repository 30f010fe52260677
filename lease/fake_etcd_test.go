package lease_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lease"
)

// fault is what a network does to a message.
type fault int

const (
	noFault       fault = iota
	loseRequests        // requests do not arrive
	loseResponses       // requests are carried out, answers are lost
	loseBoth
	refuseRequests // connections break, and new ones are refused
	delayResponses // answers take much longer
)

func (f fault) String() string {
	return [...]string{"none", "requests lost", "answers lost", "both lost", "refused", "answers late"}[f]
}

var errRefused = status.Error(codes.Unavailable, "connection refused")

// fakeEtcd is etcd's lease service behind a network, in the fake time of a synctest bubble. It
// expires leases exactly on time, which etcd does not: nobody can do worse to a client.
type fakeEtcd struct {
	renewDuration time.Duration // of the server, for each renewal; a stream is served one by one
	clockRate     float64       // how fast the server's clock runs; 0 is 1
	minTTL        int64         // TTL
	members       []string      // addresses, in the order in which they are picked

	mu            sync.Mutex
	latency       time.Duration // each way
	leases        map[int64]*fakeLease
	fault         fault
	broken        chan struct{} // closed when connections break
	onRenewal     func(id int64, member string) error
	onStream      func(n int) error
	dropResponses map[string]int // answers still to be lost, by method
	grants        int
	revokes       int
	renewals      int
	streams       []string // members, in the order in which streams were opened to them
	openStreams   int      // streams
}

type fakeLease struct {
	ttl     int64
	expires time.Time
	keys    [][]byte
}

func newFakeEtcd() *fakeEtcd {
	return &fakeEtcd{minTTL: 2, leases: map[int64]*fakeLease{}, broken: make(chan struct{}), dropResponses: map[string]int{}}
}

// manager returns a manager over the fake, closed with the test. It must be called inside a bubble.
func (f *fakeEtcd) manager(t *testing.T, opts ...lease.Option) *lease.Manager {
	t.Helper()
	cli := clientv3.NewCtxClient(t.Context())
	m := etcdtest.Must(lease.New(cli, append([]lease.Option{lease.WithStub(f)}, opts...)...))
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// setLatency makes every message take a time, each way.
func (f *fakeEtcd) setLatency(latency time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.latency = latency
}

// currentLatency is how long messages take.
func (f *fakeEtcd) currentLatency() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.latency
}

// setOnRenewal has renewals fail as the function says.
func (f *fakeEtcd) setOnRenewal(renewal func(id int64, member string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onRenewal = renewal
}

// setFault puts a fault on the network, or takes it off.
func (f *fakeEtcd) setFault(now fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = now
	if now == refuseRequests {
		close(f.broken)
		f.broken = make(chan struct{})
	}
}

func (f *fakeEtcd) hasFault(faults ...fault) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(faults, f.fault)
}

// loseNextResponses loses the next answers of a method.
func (f *fakeEtcd) loseNextResponses(method string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropResponses[method] = n
}

func (f *fakeEtcd) serverTTL(seconds int64) time.Duration {
	d := time.Duration(seconds) * time.Second
	if f.clockRate > 0 {
		d = time.Duration(float64(d) / f.clockRate)
	}
	return d
}

// liveLease is the lease, if it has not expired.
func (f *fakeEtcd) liveLease(id int64) *fakeLease {
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

// expire ends a lease, as an operator's revocation does.
func (f *fakeEtcd) expire(id clientv3.LeaseID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.leases, int64(id))
}

// leaseCount is how many leases there are.
func (f *fakeEtcd) leaseCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for id := range f.leases {
		if f.liveLease(id) != nil {
			n++
		}
	}
	return n
}

// counts is how often things were asked for.
func (f *fakeEtcd) counts() (grants, revokes, renewals, streams int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.grants, f.revokes, f.renewals, len(f.streams)
}

// call carries a unary request there, and its answer back.
func (f *fakeEtcd) call(ctx context.Context, method string, serve func() error) error {
	if f.hasFault(refuseRequests) {
		return errRefused
	}
	if !sleep(ctx, f.currentLatency()) || f.hasFault(loseRequests, loseBoth) {
		return hang(ctx)
	}
	f.mu.Lock()
	err := serve()
	lost := f.dropResponses[method] > 0
	if lost {
		f.dropResponses[method]--
	}
	f.mu.Unlock()
	if lost {
		return status.Error(codes.Unavailable, "connection reset")
	}
	if !sleep(ctx, f.currentLatency()) || f.hasFault(loseResponses, loseBoth) {
		return hang(ctx)
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) bool {
	// In a bubble, under the race detector, a timer that has expired already can bring the runtime
	// down.
	if d <= 0 {
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
	ttl := max(in.GetTTL(), f.minTTL)
	err := f.call(ctx, "grant", func() error {
		f.grants++
		if f.liveLease(in.GetID()) != nil {
			return rpctypes.ErrGRPCLeaseExist
		}
		f.leases[in.GetID()] = &fakeLease{ttl: ttl, expires: time.Now().Add(f.serverTTL(ttl))}
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
		if f.liveLease(in.GetID()) == nil {
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
		if l := f.liveLease(in.GetID()); l != nil {
			out.TTL, out.GrantedTTL, out.Keys = int64(time.Until(l.expires)/time.Second), l.ttl, l.keys
		}
		return nil
	})
	return out, err
}

func (f *fakeEtcd) LeaseLeases(context.Context, *pb.LeaseLeasesRequest, ...grpc.CallOption) (*pb.LeaseLeasesResponse, error) {
	return nil, status.Error(codes.Unimplemented, "not needed")
}
