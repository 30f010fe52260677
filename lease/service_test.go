package lease_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lease"
)

func TestManager_UsesLeaseOfClientWithoutConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cli := clientv3.NewCtxClient(t.Context())
		fake := &fakeClientLease{leases: map[clientv3.LeaseID]bool{}}
		cli.Lease = fake
		m := etcdtest.Must(lease.New(cli))
		defer m.Close()
		s := openSession(t, m, 9*time.Second)
		assert.EqualValues(t, 1, s.ID(), "which it has chosen")
		time.Sleep(31 * time.Second)
		require.NoError(t, s.Err())
		assert.EqualValues(t, 10, fake.renewals.Load())

		fake.broken.Store(true)
		<-s.Context().Done()
		require.ErrorIs(t, s.Err(), errFakeLease)

		fake.broken.Store(false)
		s = openSession(t, m, 9*time.Second)
		info, err := m.Describe(t.Context(), s.ID())
		require.NoError(t, err)
		assert.Equal(t, 9*time.Second, info.Granted)
		require.NoError(t, s.Close())
		_, err = m.KeepAliveOnce(t.Context(), s.ID())
		require.ErrorIs(t, err, lease.ErrNotFound)
		require.ErrorIs(t, m.Revoke(t.Context(), s.ID()), lease.ErrNotFound)
	})
}

var errFakeLease = errors.New("broken")

// fakeClientLease is a Lease of a user's own.
type fakeClientLease struct {
	clientv3.Lease

	leases   map[clientv3.LeaseID]bool
	renewals atomic.Int64
	broken   atomic.Bool
}

func (h *fakeClientLease) Grant(context.Context, int64) (*clientv3.LeaseGrantResponse, error) {
	id := clientv3.LeaseID(len(h.leases) + 1)
	h.leases[id] = true
	return &clientv3.LeaseGrantResponse{ID: id, TTL: 9}, nil
}

func (h *fakeClientLease) Revoke(_ context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	if !h.leases[id] {
		return nil, rpctypes.ErrLeaseNotFound
	}
	h.leases[id] = false
	return &clientv3.LeaseRevokeResponse{}, nil
}

func (h *fakeClientLease) TimeToLive(_ context.Context, id clientv3.LeaseID, _ ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	return &clientv3.LeaseTimeToLiveResponse{ID: id, TTL: 9, GrantedTTL: 9}, nil
}

func (h *fakeClientLease) KeepAliveOnce(_ context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	switch {
	case h.broken.Load():
		return nil, errFakeLease
	case !h.leases[id]:
		return nil, rpctypes.ErrLeaseNotFound
	}
	h.renewals.Add(1)
	return &clientv3.LeaseKeepAliveResponse{ID: id, TTL: 9}, nil
}
