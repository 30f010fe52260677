package wire_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
)

func TestNewLeaseID_IsPositiveAndUnique(t *testing.T) {
	t.Parallel()
	seen := map[clientv3.LeaseID]bool{}
	for range 20_000 {
		id := wire.NewLeaseID()
		assert.Positive(t, id)
		seen[id] = true
	}
	assert.Len(t, seen, 20_000)
}

func TestSeconds_RoundsUp(t *testing.T) {
	t.Parallel()
	for ttl, want := range map[time.Duration]int64{
		0:                        0,
		1:                        1,
		time.Second:              1,
		time.Second + 1:          2,
		90 * time.Second:         90,
		1500 * time.Millisecond:  2,
		math.MaxInt64:            9223372037,
		-1500 * time.Millisecond: -1,
	} {
		assert.Equal(t, want, wire.Seconds(ttl), ttl)
	}
}

func TestGrant_CanBeRepeated(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	for kind, opt := range kinds(t) {
		proxy := s.Proxy(t)
		cli := etcdtest.NewClient(t, proxy.Endpoints(), opt)
		id := wire.NewLeaseID()
		_, err := cli.Get(t.Context(), "k") // establishes the connection
		require.NoError(t, err)

		// The response is lost, but the lease is granted.
		proxy.Blackhole(false, true)
		ctx, stop := context.WithCancel(t.Context())
		lost := make(chan error, 1)
		go func() {
			_, _, err := wire.Grant(ctx, cli, id, 40*time.Second)
			lost <- err
		}()
		direct := s.Client(t, opt)
		require.Eventually(t, func() bool {
			left, err := direct.TimeToLive(t.Context(), id)
			return err == nil && left.TTL > 0
		}, 20*time.Second, 5*time.Millisecond)
		stop()
		require.ErrorIs(t, <-lost, context.Canceled, kind)

		got, ttl, err := wire.Grant(t.Context(), direct, id, 40*time.Second)
		require.NoError(t, err)
		assert.Equal(t, id, got)
		assert.Equal(t, 40*time.Second, ttl)
		all, err := direct.Leases(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []clientv3.LeaseStatus{{ID: id}}, all.Leases, kind)
		_, err = direct.Revoke(t.Context(), id)
		require.NoError(t, err)
	}
}

func TestGrant_ReturnsTTLOfServer(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t)
	id := wire.NewLeaseID()
	got, ttl, err := wire.Grant(t.Context(), cli, id, time.Millisecond)
	require.NoError(t, err)
	assert.Equal(t, id, got)
	assert.Equal(t, 2*time.Second, ttl)
	_, err = cli.Revoke(t.Context(), id)
	require.NoError(t, err)
	_, _, err = wire.Grant(t.Context(), cli, id, math.MaxInt64)
	assert.Equal(t, rpctypes.ErrLeaseTTLTooLarge, err)
}

// ownLease is a user's implementation of Lease.
type ownLease struct{ clientv3.Lease }

// Grant returns lease 7.
func (ownLease) Grant(_ context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	return &clientv3.LeaseGrantResponse{ID: 7, TTL: ttl + 1}, nil
}

// basedLease is a decorator of this module. Its Grant must not be called.
type basedLease struct{ clientv3.Lease }

// BaseLease returns the undecorated Lease.
func (b basedLease) BaseLease() clientv3.Lease { return b.Lease }

// Grant returns an error.
func (basedLease) Grant(context.Context, int64) (*clientv3.LeaseGrantResponse, error) {
	return nil, rpctypes.ErrLeaseExist
}

func TestGrant_UsesLeaseOfUser(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t)
	official := cli.Lease
	cli.Lease = ownLease{official}
	id, ttl, err := wire.Grant(t.Context(), cli, wire.NewLeaseID(), 10*time.Second)
	require.NoError(t, err)
	assert.Equal(t, clientv3.LeaseID(7), id)
	assert.Equal(t, 11*time.Second, ttl)

	cli.Lease = basedLease{official}
	want := wire.NewLeaseID()
	id, ttl, err = wire.Grant(t.Context(), cli, want, 10*time.Second)
	require.NoError(t, err, "the undecorated Lease is used")
	assert.Equal(t, want, id)
	assert.Equal(t, 10*time.Second, ttl)
	_, err = cli.Revoke(t.Context(), id)
	require.NoError(t, err)

	offline := clientv3.NewCtxClient(t.Context())
	offline.Lease = ownLease{}
	id, _, err = wire.Grant(t.Context(), offline, want, time.Second)
	require.NoError(t, err)
	assert.Equal(t, clientv3.LeaseID(7), id)
}
