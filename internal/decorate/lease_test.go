package decorate_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/decorate"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

func TestLease_GrantWithLostResponseCreatesOneLease(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	lost := failing("Lease/LeaseGrant", 3, true)
	cli := s.Client(t, hardened(t), lost.Option)
	install(cli, false)
	got, err := cli.Grant(t.Context(), 40)
	require.NoError(t, err)
	assert.Greater(t, lost.calls.Load(), int64(1))
	assert.EqualValues(t, 40, got.TTL)
	assert.Positive(t, got.Revision, "the answer has a header")
	all, err := cli.Leases(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []clientv3.LeaseStatus{{ID: got.ID}}, all.Leases)
}

// The second attempt may have made the lease before the first one arrives, and its answer may be
// lost.
func TestLease_GrantOfALeaseThatExistsIsDone(t *testing.T) {
	t.Parallel()
	twice := grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if strings.HasSuffix(method, "/LeaseGrant") {
			if err := invoke(ctx, method, req, reply, cc, opts...); err != nil {
				return err
			}
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
	cli, _ := installed(t, func(cfg *clientv3.Config) { cfg.DialOptions = append(cfg.DialOptions, twice) })
	got, err := cli.Grant(t.Context(), 40)
	require.NoError(t, err)
	assert.EqualValues(t, 40, got.TTL)
	_, err = cli.Revoke(t.Context(), got.ID)
	require.NoError(t, err)
}

func TestLease_EachGrantCreatesALease(t *testing.T) {
	t.Parallel()
	cli, _ := installed(t)
	one, err := cli.Grant(t.Context(), 40)
	require.NoError(t, err)
	two, err := cli.Grant(t.Context(), 40)
	require.NoError(t, err)
	assert.NotEqual(t, one.ID, two.ID)
	for _, id := range []clientv3.LeaseID{one.ID, two.ID} {
		_, err = cli.Revoke(t.Context(), id)
		require.NoError(t, err)
	}
}

func TestLease_GrantRejectsTooLongTTL(t *testing.T) {
	t.Parallel()
	cli, _ := installed(t)
	_, err := cli.Grant(t.Context(), 9_000_000_001)
	assert.Equal(t, rpctypes.ErrLeaseTTLTooLarge, err)
}

func TestLease_RevokeSucceedsOnceLeaseIsGone(t *testing.T) {
	t.Parallel()
	lost := failing("Lease/LeaseRevoke", 1, true)
	cli, _ := installed(t, lost.Option)
	granted, err := cli.Grant(t.Context(), 40)
	require.NoError(t, err)
	resp, err := cli.Revoke(t.Context(), granted.ID)
	require.NoError(t, err, "the attempt before has revoked it")
	assert.NotNil(t, resp.Header)
	assert.EqualValues(t, 2, lost.calls.Load())
	_, err = cli.Revoke(t.Context(), granted.ID)
	assert.Equal(t, rpctypes.ErrLeaseNotFound, err, "nothing was revoked by this call")
}

func TestLease_QueriesAreRetried(t *testing.T) {
	t.Parallel()
	ask := failing("Lease/LeaseTimeToLive", 2, true)
	list := failing("Lease/LeaseLeases", 2, true)
	renew := failing("Lease/LeaseKeepAlive", 2, true)
	renew.err = rpctypes.ErrGRPCInvalidAuthToken
	cli, _ := installed(t, ask.Option, list.Option, renew.Option)
	granted, err := cli.Grant(t.Context(), 40)
	require.NoError(t, err)

	left, err := cli.TimeToLive(t.Context(), granted.ID)
	require.NoError(t, err)
	assert.EqualValues(t, 40, left.GrantedTTL)
	assert.EqualValues(t, 3, ask.calls.Load())

	all, err := cli.Leases(t.Context())
	require.NoError(t, err)
	assert.True(t, slices.Contains(all.Leases, clientv3.LeaseStatus{ID: granted.ID}))
	assert.EqualValues(t, 3, list.calls.Load())

	_, err = cli.KeepAliveOnce(t.Context(), granted.ID)
	require.ErrorIs(t, err, rpctypes.ErrInvalidAuthToken, "refused twice")
	renewed, err := cli.KeepAliveOnce(t.Context(), granted.ID)
	require.NoError(t, err)
	assert.EqualValues(t, 40, renewed.TTL)
	assert.EqualValues(t, 3, renew.calls.Load())

	_, err = cli.Revoke(t.Context(), granted.ID)
	require.NoError(t, err)
	_, err = cli.KeepAliveOnce(t.Context(), granted.ID)
	assert.Equal(t, rpctypes.ErrLeaseNotFound, err)
}

// fakeLeaseOfTwo is the Lease of two members, one of which is frozen once it has revoked the lease.
type fakeLeaseOfTwo struct{ clientv3.Lease }

// revokeAnswered is when the first attempt is answered: while the second one is in flight.
const revokeAnswered = 1400 * time.Millisecond

// Revoke finds no lease at the first member, and is not answered by the second one.
func (fakeLeaseOfTwo) Revoke(ctx context.Context, _ clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	wire.Sent(ctx)
	answered := time.NewTimer(revokeAnswered)
	defer answered.Stop()
	if wire.Via(ctx) != nil {
		answered.Stop()
	}
	select {
	case <-answered.C:
		return nil, rpctypes.ErrLeaseNotFound
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fakeTwoMembers sends second attempts to the second member.
type fakeTwoMembers struct{ grpc.ClientConnInterface }

func (f fakeTwoMembers) Other(string) (grpc.ClientConnInterface, func(), bool) {
	return f, func() {}, true
}
func (fakeTwoMembers) Evicted(string) (bool, <-chan struct{}) { return false, nil }
func (fakeTwoMembers) HasSeveral() bool                       { return true }
func (fakeTwoMembers) ReportSlow(string)                      {}

// The first attempt finds no lease, because the second one has revoked it. The member of the second
// one need not answer.
func TestLease_RevokeSucceedsIfTheOtherAttemptHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cli := clientv3.NewCtxClient(t.Context())
		cli.Lease = fakeLeaseOfTwo{}
		e := retry.New(retry.Config{Client: cli, Observed: true, Members: fakeTwoMembers{}, Policy: quick()})
		decorate.Client(cli, e, false)
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		began := time.Now()
		resp, err := cli.Revoke(ctx, 1)
		require.NoError(t, err)
		assert.NotNil(t, resp.Header)
		assert.Equal(t, revokeAnswered, time.Since(began))
		assert.EqualValues(t, 1, e.Stats().Retries, "there was a second attempt")
	})
}
