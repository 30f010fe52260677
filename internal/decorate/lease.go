package decorate

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

// lease is a Lease that retries. Methods that it does not declare are not retried.
type lease struct {
	clientv3.Lease

	cli    *clientv3.Client
	engine *retry.Engine
}

var _ wire.BasedLease = (*lease)(nil)

// BaseLease returns the undecorated Lease.
func (l *lease) BaseLease() clientv3.Lease { return l.Lease }

// Grant grants a lease whose ID is chosen here, so that repeated attempts create a single lease. If
// it exists, another attempt has created it.
func (l *lease) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	id := wire.NewLeaseID()
	call := retry.Call{Pkg: "raw", Op: "grant", AtMostOnce: true, Raw: true}
	return retry.Do(ctx, l.engine, call, func(ctx context.Context, _ bool) (*clientv3.LeaseGrantResponse, error) {
		out, err := l.grant(ctx, id, ttl)
		if errors.Is(err, rpctypes.ErrLeaseExist) {
			return l.renewGranted(ctx, id)
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

// renewGranted returns the response for a lease that another attempt has granted. It renews the
// lease, because the caller counts the TTL from now.
func (l *lease) renewGranted(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseGrantResponse, error) {
	resp, err := l.Lease.KeepAliveOnce(ctx, id)
	if err != nil {
		return nil, err
	}
	return &clientv3.LeaseGrantResponse{ResponseHeader: resp.ResponseHeader, ID: resp.ID, TTL: resp.TTL}, nil
}

// revokeResult is the result of a revoke, with the error of client/v3 if there is no lease.
type revokeResult struct {
	resp *clientv3.LeaseRevokeResponse
	err  error
}

// Revoke revokes a lease. If the lease does not exist, and another attempt may have revoked it,
// Revoke succeeds.
func (l *lease) Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	call := retry.Call{Pkg: "raw", Op: "revoke", AtMostOnce: true, Raw: true}
	send := func(ctx context.Context, _ bool) (revokeResult, error) {
		out, err := l.Lease.Revoke(ctx, id)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return revokeResult{err: err}, nil
		}
		return revokeResult{resp: out}, err
	}
	out, err := retry.DoUntil(ctx, l.engine, call, send, func(_ context.Context, out *revokeResult, others retry.Others) bool {
		if out.err != nil && others != retry.OthersNotApplied {
			*out = revokeResult{resp: &clientv3.LeaseRevokeResponse{Header: &pb.ResponseHeader{}}}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return out.resp, out.err
}

// TimeToLive returns the remaining TTL of a lease.
func (l *lease) TimeToLive(ctx context.Context, id clientv3.LeaseID, opts ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	return retryRead(ctx, l.engine, "time to live", func(ctx context.Context) (*clientv3.LeaseTimeToLiveResponse, error) {
		return l.Lease.TimeToLive(ctx, id, opts...)
	})
}

// Leases lists all leases.
func (l *lease) Leases(ctx context.Context) (*clientv3.LeaseLeasesResponse, error) {
	return retryRead(ctx, l.engine, "leases", l.Lease.Leases)
}

// KeepAliveOnce renews a lease. It is safe to repeat.
func (l *lease) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	return retryRead(ctx, l.engine, "keep alive once", func(ctx context.Context) (*clientv3.LeaseKeepAliveResponse, error) {
		return l.Lease.KeepAliveOnce(ctx, id)
	})
}

// retryRead makes a call that is safe to repeat.
func retryRead[T any](ctx context.Context, e *retry.Engine, name string, f func(ctx context.Context) (T, error)) (T, error) {
	call := retry.Call{Pkg: "raw", Op: name, Read: true, Raw: true}
	return retry.Do(ctx, e, call, func(ctx context.Context, _ bool) (T, error) { return f(ctx) })
}
