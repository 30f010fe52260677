package lease

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// service is the part of etcd's lease service that this package uses.
type service interface {
	LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest, opts ...grpc.CallOption) (*pb.LeaseGrantResponse, error)
	LeaseRevoke(ctx context.Context, in *pb.LeaseRevokeRequest, opts ...grpc.CallOption) (*pb.LeaseRevokeResponse, error)
	LeaseTimeToLive(ctx context.Context, in *pb.LeaseTimeToLiveRequest, opts ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error)
	LeaseKeepAlive(ctx context.Context, opts ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error)
}

// newService returns the lease service of cli. ownIDs reports whether a grant gets the lease ID
// that it asks for.
func newService(cli *clientv3.Client, stub pb.LeaseClient) (s service, ownIDs bool) {
	switch {
	case stub != nil:
		return stub, true
	case wire.GrantRepeats(cli):
		return clientv3.RetryLeaseClient(cli), true
	}
	return &leaseAdapter{Lease: cli.Lease}, false
}

// leaseAdapter implements service with a custom Lease, which chooses the lease IDs itself.
type leaseAdapter struct{ clientv3.Lease }

// LeaseGrant grants a lease. It ignores the requested ID.
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
	if in.GetKeys() { // requires permission to read the keys
		opts = append(opts, clientv3.WithAttachedKeys())
	}
	r, err := d.TimeToLive(ctx, clientv3.LeaseID(in.GetID()), opts...)
	if err != nil {
		return nil, err
	}
	return &pb.LeaseTimeToLiveResponse{Header: r.ResponseHeader, ID: int64(r.ID), TTL: r.TTL, GrantedTTL: r.GrantedTTL, Keys: r.Keys}, nil
}

// LeaseKeepAlive returns a stream that calls KeepAliveOnce for each message.
func (d *leaseAdapter) LeaseKeepAlive(ctx context.Context, _ ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error) {
	return &keepAliveOnceStream{ctx: ctx, lease: d.Lease, requests: make(chan *pb.LeaseKeepAliveRequest, maxPending)}, nil
}

// keepAliveOnceStream is a renewal stream that uses KeepAliveOnce. Send queues a request and Recv
// executes it. The queue has room for maxPending requests, and no caller has more pending.
type keepAliveOnceStream struct {
	grpc.ClientStream // nil: the other methods of a gRPC stream are not used

	ctx      context.Context //nolint:containedctx // a stream has one
	lease    clientv3.Lease
	requests chan *pb.LeaseKeepAliveRequest
}

// Context returns the context of the stream.
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

// Recv executes the next renewal and returns its response.
func (s *keepAliveOnceStream) Recv() (*pb.LeaseKeepAliveResponse, error) {
	select {
	case r := <-s.requests:
		resp, err := s.lease.KeepAliveOnce(s.ctx, clientv3.LeaseID(r.GetID()))
		switch {
		case isNotFound(err):
			// A stream reports a missing lease this way.
			return &pb.LeaseKeepAliveResponse{ID: r.GetID()}, nil
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
