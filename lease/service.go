package lease

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// service is what this package uses of etcd's lease service.
type service interface {
	LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest, opts ...grpc.CallOption) (*pb.LeaseGrantResponse, error)
	LeaseRevoke(ctx context.Context, in *pb.LeaseRevokeRequest, opts ...grpc.CallOption) (*pb.LeaseRevokeResponse, error)
	LeaseTimeToLive(ctx context.Context, in *pb.LeaseTimeToLiveRequest, opts ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error)
	LeaseKeepAlive(ctx context.Context, opts ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error)
}

// newService returns the lease service of cli, and whether leases granted through it get the ID that is asked for.
func newService(cli *clientv3.Client, stub pb.LeaseClient) (s service, ownIDs bool) {
	switch {
	case stub != nil:
		return stub, true
	case wire.GrantRepeats(cli):
		return clientv3.RetryLeaseClient(cli), true
	}
	return &leaseAdapter{Lease: cli.Lease}, false
}

// leaseAdapter is the service over a Lease of the user's own, which chooses IDs by itself.
type leaseAdapter struct{ clientv3.Lease }

// LeaseGrant grants a lease with whatever ID Lease gives it.
func (d *leaseAdapter) LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest, _ ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	r, err := d.Grant(ctx, in.GetTTL())
	if err != nil {
		return nil, err
	}
	return &pb.LeaseGrantResponse{Header: r.ResponseHeader, ID: int64(r.ID), TTL: r.TTL}, nil
}

// LeaseRevoke revokes a lease.
func (d *leaseAdapter) LeaseRevoke(ctx context.Context, in *pb.LeaseRevokeRequest, _ ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
	r, err := d.Revoke(ctx, clientv3.LeaseID(in.GetID()))
	return (*pb.LeaseRevokeResponse)(r), err
}

// LeaseTimeToLive describes a lease.
func (d *leaseAdapter) LeaseTimeToLive(ctx context.Context, in *pb.LeaseTimeToLiveRequest, _ ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error) {
	var opts []clientv3.LeaseOption
	if in.GetKeys() { // which takes the permission to read them
		opts = append(opts, clientv3.WithAttachedKeys())
	}
	r, err := d.TimeToLive(ctx, clientv3.LeaseID(in.GetID()), opts...)
	if err != nil {
		return nil, err
	}
	return &pb.LeaseTimeToLiveResponse{Header: r.ResponseHeader, ID: int64(r.ID), TTL: r.TTL, GrantedTTL: r.GrantedTTL, Keys: r.Keys}, nil
}

// LeaseKeepAlive gives a stream whose every message is a KeepAliveOnce.
func (d *leaseAdapter) LeaseKeepAlive(ctx context.Context, _ ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error) {
	return &keepAliveOnceStream{ctx: ctx, lease: d.Lease, requests: make(chan *pb.LeaseKeepAliveRequest, maxPending)}, nil
}

// keepAliveOnceStream is a stream of renewals over KeepAliveOnce. Recv carries out what Send has queued, for which there is room:
// nobody sends more than unansweredMost at a time.
type keepAliveOnceStream struct {
	grpc.ClientStream // nil: what a stream of gRPC has beyond the methods below is not used

	ctx      context.Context //nolint:containedctx // a stream has one
	lease    clientv3.Lease
	requests chan *pb.LeaseKeepAliveRequest
}

// Context is the context of the stream.
func (s *keepAliveOnceStream) Context() context.Context { return s.ctx }

// Send queues a renewal.
func (s *keepAliveOnceStream) Send(r *pb.LeaseKeepAliveRequest) error {
	select {
	case s.requests <- r:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// Recv makes the next renewal and returns its answer.
func (s *keepAliveOnceStream) Recv() (*pb.LeaseKeepAliveResponse, error) {
	select {
	case r := <-s.requests:
		resp, err := s.lease.KeepAliveOnce(s.ctx, clientv3.LeaseID(r.GetID()))
		switch {
		case isNotFound(err):
			return &pb.LeaseKeepAliveResponse{ID: r.GetID()}, nil // which is how a stream says it
		case err != nil:
			return nil, err
		}
		return &pb.LeaseKeepAliveResponse{Header: resp.ResponseHeader, ID: r.GetID(), TTL: resp.TTL}, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// CloseSend does nothing: the stream ends with its context.
func (s *keepAliveOnceStream) CloseSend() error { return nil }
