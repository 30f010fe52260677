package lease

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Grant grants a lease that is not renewed. The caller attaches keys to it, renews it and revokes
// it; [Manager.OpenSession] grants one that is kept alive. The limits of ttl are those of
// [WithTTL].
//
// It costs one RPC, and one renewal if the response took half of the TTL. If the response is lost,
// the grant is repeated under the same ID. If Grant fails, a lease that may have been granted is
// revoked in the background. A custom Lease in the client's Lease field chooses its own IDs: there
// the grant is sent once, and a failed one may leave a lease until it expires.
func (m *Manager) Grant(ctx context.Context, ttl time.Duration) (Info, error) {
	if err := errors.Join(m.ready(), wire.CheckTTL(ttl)); err != nil {
		return Info{}, opError("grant", "", err)
	}
	ctx, stop := m.callContext(ctx)
	defer stop()
	res, err := m.grant(ctx, ttl)
	if err != nil {
		return Info{}, err
	}
	return res.info(), nil
}

// grant grants a lease. If it fails and a lease may have been granted, it revokes that lease in the
// background.
func (c *core) grant(ctx context.Context, ttl time.Duration) (leaseResult, error) {
	id, startedAt := wire.NewLeaseID(), time.Now()
	// A repeated grant is harmless if the client chooses the ID. A Lease that chooses IDs itself
	// would grant a second lease.
	call := retry.Call{Pkg: "lease", Op: "grant", AtMostOnce: c.clientChosenIDs}
	res, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, _ bool) (leaseResult, error) {
		res := leaseResult{id: id, sentAt: time.Now()}
		r, err := c.service.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: int64(id), TTL: wire.Seconds(ttl)}, grpc.WaitForReady(true))
		switch {
		case errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseExist):
			return res, nil // granted by an earlier attempt; the TTL is unknown
		case err != nil:
			return res, clientv3.ContextError(ctx, err)
		}
		res.id, res.ttl = clientv3.LeaseID(r.GetID()), time.Duration(r.GetTTL())*time.Second
		return res, nil
	})
	if err == nil && (res.ttl == 0 || time.Since(startedAt) > res.ttl/2) {
		// The granted TTL is unknown, or half of it has passed. A renewal returns the TTL and
		// restarts it.
		if res, err = c.keepAliveOnce(ctx, res.id, "grant"); err != nil {
			c.revokeInBackground(res.id)
		}
		return res, err
	}
	if err != nil && c.clientChosenIDs && !errs.NotApplied(err) {
		c.revokeInBackground(id)
	}
	return res, err
}

// revokeInBackground revokes a lease that is not returned to a caller.
func (c *core) revokeInBackground(id clientv3.LeaseID) {
	revoke := func() {
		ctx, stop := c.closeContext()
		defer stop()
		if err := c.revoke(ctx, id); err != nil && !errors.Is(err, ErrNotFound) {
			c.log.WarnContext(ctx, "a lease is left to expire", "lease", wire.FormatLeaseID(id), "error", err)
		}
	}
	if !c.runInBackground(revoke) {
		revoke()
	}
}

// KeepAliveOnce renews a lease once. It returns [ErrNotFound] if the lease does not exist. It opens
// a stream for this renewal, which also costs a login if the client has a password. Sessions share
// one stream instead.
func (m *Manager) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (Info, error) {
	if err := errors.Join(m.ready(), checkID(id)); err != nil {
		return Info{}, opError("keep alive", "", err)
	}
	ctx, stop := m.callContext(ctx)
	defer stop()
	res, err := m.keepAliveOnce(ctx, id, "keep alive")
	if err != nil {
		return Info{}, err
	}
	return res.info(), nil
}

// keepAliveOnce renews a lease on a stream of its own. The ID in the result is valid even if an
// error is returned.
func (c *core) keepAliveOnce(ctx context.Context, id clientv3.LeaseID, op string) (leaseResult, error) {
	// A renewal is as safe to repeat as a read.
	call := retry.Call{Pkg: "lease", Op: op, Key: wire.FormatLeaseID(id), Read: true}
	res, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, _ bool) (leaseResult, error) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		s, err := c.service.LeaseKeepAlive(clientv3.WithRequireLeader(ctx), grpc.WaitForReady(true))
		if err != nil {
			return leaseResult{}, clientv3.ContextError(ctx, err)
		}
		res := leaseResult{id: id, sentAt: time.Now()}
		_ = s.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}) // Recv returns the reason of a failure
		r, err := s.Recv()
		if err != nil {
			return res, clientv3.ContextError(ctx, err)
		}
		if r.GetTTL() <= 0 {
			return res, rpctypes.ErrLeaseNotFound
		}
		res.ttl = time.Duration(r.GetTTL()) * time.Second
		return res, nil
	})
	res.id = id
	return res, err
}

// Revoke revokes a lease, which deletes its keys. It returns [ErrNotFound] if the lease does not
// exist. If an attempt finds no lease after the response of an earlier one was lost, or while
// another one is in flight, Revoke returns nil, because that one may have revoked it. A session of
// this manager on the lease is lost at once. Revoke costs one RPC, which is retried until etcd
// confirms that the lease is gone, within the limits of ctx and [WithRetry].
func (m *Manager) Revoke(ctx context.Context, id clientv3.LeaseID) error {
	if err := errors.Join(m.ready(), checkID(id)); err != nil {
		return opError("revoke", "", err)
	}
	ctx, stop := m.callContext(ctx)
	defer stop()
	err := m.revoke(ctx, id)
	if err == nil || errors.Is(err, ErrNotFound) {
		if s := m.renewer.find(id); s != nil {
			s.lose(ErrNotFound, nil)
		}
	}
	return err
}

func (c *core) revoke(ctx context.Context, id clientv3.LeaseID) error {
	var mayBeRevoked atomic.Bool
	call := retry.Call{Pkg: "lease", Op: "revoke", Key: wire.FormatLeaseID(id), AtMostOnce: true}
	send := func(ctx context.Context, _ bool) (notFound bool, err error) {
		// client/v3 may retry on its own. Only this hook then sees that the first attempt failed.
		onFailure := grpc.OnFinish(func(err error) {
			if err == nil {
				return
			}
			if class, _ := retry.Classify(err, false); class.MayBeApplied() {
				mayBeRevoked.Store(true)
			}
		})
		_, err = c.service.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(id)}, grpc.WaitForReady(true), onFailure)
		if isNotFound(err) {
			return true, nil
		}
		return false, clientv3.ContextError(ctx, err)
	}
	notFound, err := retry.DoUntil(ctx, c.engine, call, send, func(_ context.Context, notFound *bool, others retry.Others) bool {
		if others != retry.OthersNotApplied || mayBeRevoked.Load() {
			*notFound = false // another attempt may have revoked the lease, which is gone either way
		}
		return true
	})
	if err == nil && notFound {
		return opError("revoke", wire.FormatLeaseID(id), retry.WithCondition(rpctypes.ErrLeaseNotFound, ErrNotFound))
	}
	return err
}

// revokeOnce tries once to revoke the lease of a lost session. Otherwise the keys would stay until
// the lease expires, which takes a whole TTL after a leader election.
func (c *core) revokeOnce(ctx context.Context, id clientv3.LeaseID) {
	_, err := c.service.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(id)}, grpc.WaitForReady(true))
	if err != nil && !isNotFound(err) {
		c.log.DebugContext(ctx, "the lease of a lost session is left to expire", "lease", wire.FormatLeaseID(id), "error", err)
	}
}
