package raw

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// lease is a Lease that retries. What it does not declare passes through.
type lease struct {
	clientv3.Lease

	cli    *clientv3.Client
	engine *retry.Engine
}

var _ wire.BasedLease = (*lease)(nil)

// BaseLease is the Lease below.
func (l *lease) BaseLease() clientv3.Lease { return l.Lease }

// Grant makes a lease whose ID is chosen here, so that it is one lease however often it is asked for. If it exists, another
// attempt has made it, which may have begun later.
func (l *lease) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	id := wire.NewLeaseID()
	call := retry.Call{Pkg: "raw", Op: "grant", AtMostOnce: true, Raw: true}
	return retry.Do(ctx, l.engine, call, func(ctx context.Context, _ bool) (*clientv3.LeaseGrantResponse, error) {
		out, err := l.grant(ctx, id, ttl)
		if errors.Is(err, rpctypes.ErrLeaseExist) {
			return l.granted(ctx, id)
		}
		return out, err
	})
}

func (l *lease) grant(ctx context.Context, id clientv3.LeaseID, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	req := &pb.LeaseGrantRequest{ID: int64(id), TTL: ttl}
	resp, err := clientv3.RetryLeaseClient(l.cli).LeaseGrant(ctx, req, grpc.WaitForReady(true))
	if err != nil {
		return nil, clientv3.ContextError(ctx, err)
	}
	return &clientv3.LeaseGrantResponse{
		ResponseHeader: resp.GetHeader(),
		ID:             clientv3.LeaseID(resp.GetID()),
		TTL:            resp.GetTTL(),
		Error:          resp.GetError(),
	}, nil
}

// granted is the answer to a grant that an earlier attempt has brought about. The lease is renewed, since the TTL counts
// from the answer for whoever gets it.
func (l *lease) granted(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseGrantResponse, error) {
	resp, err := l.Lease.KeepAliveOnce(ctx, id)
	if err != nil {
		return nil, err
	}
	return &clientv3.LeaseGrantResponse{ResponseHeader: resp.ResponseHeader, ID: resp.ID, TTL: resp.TTL}, nil
}

// Revoke ends a lease. One that an earlier attempt may have ended, and that is gone, was ended.
func (l *lease) Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	call := retry.Call{Pkg: "raw", Op: "revoke", AtMostOnce: true, Raw: true}
	return retry.Do(ctx, l.engine, call, func(ctx context.Context, again bool) (*clientv3.LeaseRevokeResponse, error) {
		out, err := l.Lease.Revoke(ctx, id)
		if again && errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return &clientv3.LeaseRevokeResponse{Header: &pb.ResponseHeader{}}, nil
		}
		return out, err
	})
}

// TimeToLive asks about a lease.
func (l *lease) TimeToLive(ctx context.Context, id clientv3.LeaseID, opts ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	return read(ctx, l.engine, "time to live", func(ctx context.Context) (*clientv3.LeaseTimeToLiveResponse, error) {
		return l.Lease.TimeToLive(ctx, id, opts...)
	})
}

// Leases lists all leases.
func (l *lease) Leases(ctx context.Context) (*clientv3.LeaseLeasesResponse, error) {
	return read(ctx, l.engine, "leases", l.Lease.Leases)
}

// KeepAliveOnce renews a lease. A second renewal does no harm.
func (l *lease) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	return read(ctx, l.engine, "keep alive once", func(ctx context.Context) (*clientv3.LeaseKeepAliveResponse, error) {
		return l.Lease.KeepAliveOnce(ctx, id)
	})
}

// read makes a call that may be made as often as one likes.
func read[T any](ctx context.Context, e *retry.Engine, name string, f func(ctx context.Context) (T, error)) (T, error) {
	call := retry.Call{Pkg: "raw", Op: name, Read: true, Raw: true}
	return retry.Do(ctx, e, call, func(ctx context.Context, _ bool) (T, error) { return f(ctx) })
}
