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

// Grant makes a lease that nobody renews: it is the caller's to attach keys to, to renew and to revoke; see
// [Manager.OpenSession] for one that is kept alive. One RPC, repeated under the same ID where its answer is lost; a lease
// that may have come of a grant that failed is revoked in the background. ttl is held to the limits of [WithTTL].
func (m *Manager) Grant(ctx context.Context, ttl time.Duration) (Info, error) {
	if err := errors.Join(m.ready(), checkTTL(ttl)); err != nil {
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

// grant grants a lease and cleans up behind a grant that may have happened.
func (c *core) grant(ctx context.Context, ttl time.Duration) (leaseResult, error) {
	id, startedAt := wire.NewLeaseID(), time.Now()
	// Repeating is harmless where the ID is ours to choose; a Lease that chooses would grant a second one.
	call := retry.Call{Pkg: "lease", Op: "grant", Guarded: c.clientChosenIDs}
	res, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, _ bool) (leaseResult, error) {
		res := leaseResult{id: id, sentAt: time.Now()}
		r, err := c.service.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: int64(id), TTL: wire.Seconds(ttl)}, grpc.WaitForReady(true))
		switch {
		case errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseExist):
			return res, nil // granted by another attempt; it is not known for how long
		case err != nil:
			return res, clientv3.ContextError(ctx, err)
		}
		res.id, res.ttl = clientv3.LeaseID(r.GetID()), time.Duration(r.GetTTL())*time.Second
		return res, nil
	})
	if err == nil && (res.ttl == 0 || time.Since(startedAt) > res.ttl/2) {
		// It is not known what was granted, or much of it has gone by.
		if res, err = c.keepAliveOnce(ctx, res.id, "grant"); err != nil {
			c.revokeInBackground(res.id)
		}
		return res, err
	}
	if err != nil && c.clientChosenIDs && !errs.Unchanged(err) {
		c.revokeInBackground(id)
	}
	return res, err
}

// revokeInBackground revokes, in the background, a lease of which nobody will hear.
func (c *core) revokeInBackground(id clientv3.LeaseID) {
	revoke := func() {
		ctx, stop := c.closeContext()
		defer stop()
		if err := c.revoke(ctx, id); err != nil && !errors.Is(err, ErrNotFound) {
			c.log.WarnContext(ctx, "a lease is left to end by itself", "lease", formatLeaseID(id), "error", err)
		}
	}
	if !c.runInBackground(revoke) {
		revoke()
	}
}

// KeepAliveOnce renews a lease: [ErrNotFound] if there is no such one. It opens a stream for this one renewal, which on
// a client with a password is a login too; sessions share a stream.
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

// keepAliveOnce renews a lease on a stream of its own. Its term is good for the ID also when there is an error.
func (c *core) keepAliveOnce(ctx context.Context, id clientv3.LeaseID, op string) (leaseResult, error) {
	call := retry.Call{Pkg: "lease", Op: op, Key: formatLeaseID(id), Read: true} // as repeatable as a read
	res, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, _ bool) (leaseResult, error) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		s, err := c.service.LeaseKeepAlive(clientv3.WithRequireLeader(ctx), grpc.WaitForReady(true))
		if err != nil {
			return leaseResult{}, clientv3.ContextError(ctx, err)
		}
		res := leaseResult{id: id, sentAt: time.Now()}
		_ = s.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}) // Recv has the reason
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

// Revoke ends a lease and deletes its keys. One RPC, repeated until etcd says that the lease is gone: a lease that is
// not found after an attempt whose answer was lost was revoked by that. [ErrNotFound] if it was not there to begin
// with. A session of this manager on the lease is lost at once.
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
	call := retry.Call{Pkg: "lease", Op: "revoke", Key: formatLeaseID(id), Guarded: true}
	_, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, ambiguous bool) (none struct{}, err error) {
		// client/v3 may send it again by itself; then the failure of the first attempt is seen here alone.
		onFailure := grpc.OnFinish(func(err error) {
			if err == nil {
				return
			}
			if class, _ := retry.Classify(err, false); class.Applied() {
				mayBeRevoked.Store(true)
			}
		})
		_, err = c.service.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(id)}, grpc.WaitForReady(true), onFailure)
		if isNotFound(err) && (ambiguous || mayBeRevoked.Load()) {
			return none, nil
		}
		return none, clientv3.ContextError(ctx, err)
	})
	return err
}

// revokeOnce tries once to revoke the lease of a lost session, whose keys otherwise stay until it expires: for a whole TTL
// after a new leader was elected.
func (c *core) revokeOnce(ctx context.Context, id clientv3.LeaseID) {
	_, err := c.service.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(id)}, grpc.WaitForReady(true))
	if err != nil && !isNotFound(err) {
		c.log.DebugContext(ctx, "the lease of a lost session is left to expire", "lease", formatLeaseID(id), "error", err)
	}
}
