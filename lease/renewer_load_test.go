package lease_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lease"
)

func TestRenewer_RenewsTwoThousandSessionsDueAtOnce(t *testing.T) {
	t.Parallel()
	const n = 2000 // more than are sent ahead of their answers
	tests := map[string]func(t *testing.T) *lease.Manager{
		"over a stream": func(t *testing.T) *lease.Manager {
			t.Helper()
			return newFakeEtcd().manager(t)
		},
		"over a Lease of the user's own": func(t *testing.T) *lease.Manager {
			t.Helper()
			cli := clientv3.NewCtxClient(t.Context())
			cli.Lease = &fakeClientLease{leases: map[clientv3.LeaseID]bool{}}
			m := etcdtest.Must(lease.New(cli))
			t.Cleanup(func() { _ = m.Close() })
			return m
		},
	}
	for name, manager := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := manager(t)
				var all []*lease.Session
				for range n {
					all = append(all, openSession(t, m, 9*time.Second))
				}
				time.Sleep(31 * time.Second)
				for _, s := range all {
					require.NoError(t, s.Err())
				}
				assert.EqualValues(t, 10*n, m.Stats().Renewals)
				assert.EqualValues(t, 1, m.Stats().Streams)
			})
		})
	}
}

// fakeBlockedService is a lease service whose streams take no message.
type fakeBlockedService struct{ *fakeEtcd }

func (c fakeBlockedService) LeaseKeepAlive(ctx context.Context, opts ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error) {
	s, err := c.fakeEtcd.LeaseKeepAlive(ctx, opts...)
	return fakeBlockedStream{s}, err
}

type fakeBlockedStream struct{ pb.Lease_LeaseKeepAliveClient }

func (c fakeBlockedStream) Send(*pb.LeaseKeepAliveRequest) error {
	<-c.Context().Done()
	return c.Context().Err()
}

func TestRenewer_BlockedSendDelaysNeitherCloseNorExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := etcdtest.Must(lease.New(clientv3.NewCtxClient(t.Context()), lease.WithStub(fakeBlockedService{f})))
		s := openSession(t, m, time.Hour)
		time.Sleep(21 * time.Minute) // the first renewal is under way
		start := time.Now()
		require.NoError(t, m.Close())
		assert.Zero(t, time.Since(start))
		require.ErrorIs(t, s.Err(), lease.ErrClosed)
		assert.Zero(t, f.leaseCount())
	})
	synctest.Test(t, func(t *testing.T) {
		m := etcdtest.Must(lease.New(clientv3.NewCtxClient(t.Context()), lease.WithStub(fakeBlockedService{newFakeEtcd()})))
		s := openSession(t, m, 10*time.Second)
		<-s.Context().Done()
		require.ErrorIs(t, s.Err(), lease.ErrExpired)
		assert.False(t, time.Now().Before(s.Deadline()))
		assert.True(t, time.Now().Before(s.Deadline().Add(time.Millisecond)), "the fuse waits for nobody")
		require.NoError(t, m.Close())
	})
}
