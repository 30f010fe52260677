package lease_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/lease"
)

// hedgeDelay is when a call makes its second attempt, if no response has told how long they take.
const hedgeDelay = time.Second

// attemptFate is what happens to an attempt, in time since it was sent. A negative time is never.
type attemptFate struct {
	applied, answered time.Duration
	lost              bool // the connection breaks instead of the answer
}

// fakeTwoMembers is the fake etcd behind two members. The first attempt and the second one of a
// call meet with their fates, and all others are answered at once.
type fakeTwoMembers struct {
	*fakeEtcd

	mu          sync.Mutex
	fates       [2]attemptFate
	sent        int
	hedges      int
	began       time.Time
	succeededAt time.Duration // when the first answer without an error arrives, 0 if none does
}

// fakeMemberConn is a connection to one member.
type fakeMemberConn struct{ grpc.ClientConnInterface }

// Other returns a connection to the other member.
func (*fakeTwoMembers) Other(string) (grpc.ClientConnInterface, func(), bool) {
	return &fakeMemberConn{}, func() {}, true
}

// Evicted returns false.
func (*fakeTwoMembers) Evicted(string) (bool, <-chan struct{}) { return false, nil }

// HasSeveral returns true.
func (*fakeTwoMembers) HasSeveral() bool { return true }

// ReportSlow does nothing.
func (*fakeTwoMembers) ReportSlow(string) {}

// meets sets the fates of the next call.
func (f *fakeTwoMembers) meets(first, second attemptFate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fates, f.sent, f.hedges, f.began, f.succeededAt = [2]attemptFate{first, second}, 0, 0, time.Now(), 0
}

// fate returns the fate of the attempt with ctx.
func (f *fakeTwoMembers) fate(ctx context.Context) (fate attemptFate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent++
	switch {
	case f.sent == 1:
		return f.fates[0]
	case wire.Via(ctx) != nil:
		f.hedges++
		if f.hedges == 1 {
			return f.fates[1]
		}
	}
	return attemptFate{}
}

// LeaseGrant grants a lease.
func (f *fakeTwoMembers) LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest, _ ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	return attempt(ctx, f, in, f.fakeEtcd.LeaseGrant)
}

// LeaseRevoke revokes a lease.
func (f *fakeTwoMembers) LeaseRevoke(ctx context.Context, in *pb.LeaseRevokeRequest, _ ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
	return attempt(ctx, f, in, f.fakeEtcd.LeaseRevoke)
}

// attempt sends one attempt, which is on its way whatever becomes of ctx.
func attempt[Q, R any](ctx context.Context, f *fakeTwoMembers, in Q, call func(context.Context, Q, ...grpc.CallOption) (*R, error)) (*R, error) {
	wire.SentTo(ctx, fakeAddr("a"))
	wire.Sent(ctx)
	fate := f.fate(ctx)
	type answer struct {
		resp *R
		err  error
	}
	applied := make(chan answer, 1)
	if fate.applied >= 0 {
		time.AfterFunc(fate.applied, func() {
			resp, err := call(context.WithoutCancel(ctx), in)
			applied <- answer{resp, err}
		})
	}
	if fate.answered < 0 || !sleep(ctx, fate.answered) {
		return nil, hang(ctx)
	}
	if fate.lost {
		return nil, status.Error(codes.Unavailable, "error reading from server: EOF")
	}
	a := <-applied
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.err == nil && f.succeededAt == 0 {
		f.succeededAt = time.Since(f.began)
	}
	return a.resp, a.err
}

// attemptFates returns what can happen to an attempt that is sent at the given time after the call
// has begun, as are all times.
func attemptFates(sent time.Duration, applied, answered []time.Duration) (all []attemptFate) {
	for _, at := range applied {
		f := attemptFate{applied: at - sent, answered: -1}
		if at < 0 {
			f.applied = -1
		}
		all = append(all, f) // no answer
		for _, then := range answered {
			all = append(all, attemptFate{f.applied, then - sent, true})
			if at >= 0 && then >= at {
				all = append(all, attemptFate{f.applied, then - sent, false})
			}
		}
	}
	return all
}

// A grant or a revoke makes a second attempt while the first one is in flight. In whatever order
// the two are applied and answered, or their answers lost, there is one lease, or none.
func TestManager_HedgedGrantAndRevokeInEverySchedule(t *testing.T) {
	t.Parallel()
	const ms, never = time.Millisecond, -1
	first := attemptFates(0, []time.Duration{500 * ms, 1300 * ms, 20_000 * ms, never}, []time.Duration{700 * ms, 1400 * ms, 1900 * ms})
	second := attemptFates(hedgeDelay, []time.Duration{1100 * ms, 1500 * ms, 20_100 * ms, never}, []time.Duration{1200 * ms, 1600 * ms, 2100 * ms})
	hedged := map[string]int{}
	for _, one := range first {
		for _, two := range second {
			if one.answered < 0 && two.answered < 0 {
				continue // nothing ends the call but its deadline
			}
			synctest.Test(t, func(t *testing.T) {
				f := &fakeTwoMembers{fakeEtcd: newFakeEtcd()}
				m := etcdtest.Must(lease.New(clientv3.NewCtxClient(t.Context()), lease.WithStub(f)))
				defer func() { _ = m.Close() }()
				m.Simulate(f)
				check := func(op string, leases int, err error) {
					t.Helper()
					about := fmt.Sprintf("%s, first %+v, second %+v", op, one, two)
					took := time.Since(f.began)
					require.NoError(t, err, about)
					require.Equal(t, leases, f.leaseCount(), about)
					f.mu.Lock()
					if f.succeededAt > 0 {
						require.LessOrEqual(t, took, f.succeededAt, about)
					}
					hedged[op] += f.hedges
					f.mu.Unlock()
				}
				f.meets(one, two)
				info, err := m.Grant(t.Context(), time.Minute)
				check("grant", 1, err)
				time.Sleep(25 * time.Second) // what is in flight arrives
				require.Equal(t, 1, f.leaseCount(), "first %+v, second %+v", one, two)
				require.False(t, f.expiry(info.ID).IsZero())

				f.meets(one, two)
				check("revoke", 0, m.Revoke(t.Context(), info.ID))
				time.Sleep(25 * time.Second)
				require.Zero(t, f.leaseCount())
				require.ErrorIs(t, m.Revoke(t.Context(), info.ID), lease.ErrNotFound)
			})
		}
	}
	assert.Positive(t, hedged["grant"])
	assert.Positive(t, hedged["revoke"])
}
