package lease

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
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
	ctx, stop := m.until(ctx)
	defer stop()
	t, err := m.grant(ctx, ttl)
	if err != nil {
		return Info{}, err
	}
	return t.info(), nil
}

// grant grants a lease and cleans up behind a grant that may have happened.
func (c *core) grant(ctx context.Context, ttl time.Duration) (term, error) {
	id, first := wire.NewLeaseID(), time.Now()
	// Repeating is harmless where the ID is ours to choose; a Lease that chooses would grant a second one.
	call := retry.Call{Pkg: "lease", Op: "grant", Guarded: c.ownIDs}
	t, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, _ bool) (term, error) {
		t := term{id: id, asked: time.Now()}
		r, err := c.service.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: int64(id), TTL: wire.Seconds(ttl)}, grpc.WaitForReady(true))
		switch {
		case errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseExist):
			return t, nil // granted by another attempt; it is not known for how long
		case err != nil:
			return t, clientv3.ContextError(ctx, err)
		}
		t.id, t.ttl = clientv3.LeaseID(r.GetID()), time.Duration(r.GetTTL())*time.Second
		return t, nil
	})
	if err == nil && (t.ttl == 0 || time.Since(first) > t.ttl/2) {
		// It is not known what was granted, or much of it has gone by.
		if t, err = c.renewOnce(ctx, t.id, "grant"); err != nil {
			c.abandon(t.id)
		}
		return t, err
	}
	if err != nil && c.ownIDs && !errs.Unchanged(err) {
		c.abandon(id)
	}
	return t, err
}

// abandon revokes, in the background, a lease of which nobody will hear.
func (c *core) abandon(id clientv3.LeaseID) {
	clean := func() {
		ctx, stop := c.parting()
		defer stop()
		if err := c.revoke(ctx, id); err != nil && !errors.Is(err, ErrNotFound) {
			c.log.WarnContext(ctx, "a lease is left to end by itself", "lease", named(id), "error", err)
		}
	}
	if !c.job(clean) {
		clean()
	}
}

// KeepAliveOnce renews a lease: [ErrNotFound] if there is no such one. It opens a stream for this one renewal, which on
// a client with a password is a login too; sessions share a stream.
func (m *Manager) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (Info, error) {
	if err := errors.Join(m.ready(), checkID(id)); err != nil {
		return Info{}, opError("keep alive", "", err)
	}
	ctx, stop := m.until(ctx)
	defer stop()
	t, err := m.renewOnce(ctx, id, "keep alive")
	if err != nil {
		return Info{}, err
	}
	return t.info(), nil
}

// renewOnce renews a lease on a stream of its own. Its term is good for the ID also when there is an error.
func (c *core) renewOnce(ctx context.Context, id clientv3.LeaseID, op string) (term, error) {
	call := retry.Call{Pkg: "lease", Op: op, Key: named(id), Read: true} // as repeatable as a read
	t, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, _ bool) (term, error) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		s, err := c.service.LeaseKeepAlive(clientv3.WithRequireLeader(ctx), grpc.WaitForReady(true))
		if err != nil {
			return term{}, clientv3.ContextError(ctx, err)
		}
		t := term{id: id, asked: time.Now()}
		_ = s.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}) // Recv has the reason
		r, err := s.Recv()
		if err != nil {
			return t, clientv3.ContextError(ctx, err)
		}
		if r.GetTTL() <= 0 {
			return t, rpctypes.ErrLeaseNotFound
		}
		t.ttl = time.Duration(r.GetTTL()) * time.Second
		return t, nil
	})
	t.id = id
	return t, err
}

// Revoke ends a lease and deletes its keys. One RPC, repeated until etcd says that the lease is gone: a lease that is
// not found after an attempt whose answer was lost was revoked by that. [ErrNotFound] if it was not there to begin
// with. A session of this manager on the lease is lost at once.
func (m *Manager) Revoke(ctx context.Context, id clientv3.LeaseID) error {
	if err := errors.Join(m.ready(), checkID(id)); err != nil {
		return opError("revoke", "", err)
	}
	ctx, stop := m.until(ctx)
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
	var doubt atomic.Bool
	call := retry.Call{Pkg: "lease", Op: "revoke", Key: named(id), Guarded: true}
	_, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, again bool) (none struct{}, err error) {
		// client/v3 may send it again by itself; then the failure of the first attempt is seen here alone.
		failed := grpc.OnFinish(func(err error) {
			if err == nil {
				return
			}
			if class, _ := retry.Classify(err, false); class.Applied() {
				doubt.Store(true)
			}
		})
		_, err = c.service.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(id)}, grpc.WaitForReady(true), failed)
		if isNotFound(err) && (again || doubt.Load()) {
			return none, nil
		}
		return none, clientv3.ContextError(ctx, err)
	})
	return err
}

// revokeLost tries once to revoke the lease of a lost session, whose keys otherwise stay until it expires: for a whole TTL
// after a new leader was elected.
func (c *core) revokeLost(ctx context.Context, id clientv3.LeaseID) {
	_, err := c.service.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(id)}, grpc.WaitForReady(true))
	if err != nil && !isNotFound(err) {
		c.log.DebugContext(ctx, "the lease of a lost session is left to expire", "lease", named(id), "error", err)
	}
}

// Describe says what etcd knows of a lease, with its keys in order: [ErrNotFound] if there is no such one. With access control,
// etcd tells only who may read all of the lease's keys, those outside the namespace included; others get [ErrPermission],
// and can use [Manager.TimeToLive]. It costs one RPC.
func (m *Manager) Describe(ctx context.Context, id clientv3.LeaseID) (Info, error) {
	return m.info(ctx, "describe", id, true)
}

// TimeToLive says how long a lease has left, and was granted for: [ErrNotFound] if there is no such one. It tells no keys, and
// needs no permission. It costs one RPC.
func (m *Manager) TimeToLive(ctx context.Context, id clientv3.LeaseID) (Info, error) {
	return m.info(ctx, "time to live", id, false)
}

func (m *Manager) info(ctx context.Context, op string, id clientv3.LeaseID, keys bool) (Info, error) {
	if err := errors.Join(m.ready(), checkID(id)); err != nil {
		return Info{}, opError(op, "", err)
	}
	ctx, stop := m.until(ctx)
	defer stop()
	r, asked, err := m.look(ctx, op, id, keys)
	if err != nil {
		return Info{}, err
	}
	out := term{id, asked, time.Duration(r.GetTTL()) * time.Second}.info()
	out.Granted = time.Duration(r.GetGrantedTTL()) * time.Second
	out.Keys, out.RaftTerm = m.visible(r.GetKeys()), r.GetHeader().GetRaftTerm()
	return out, nil
}

// look asks etcd about a lease. The answer is as of a moment after asked.
func (c *core) look(ctx context.Context, op string, id clientv3.LeaseID, keys bool) (r *pb.LeaseTimeToLiveResponse, asked time.Time, err error) {
	call := retry.Call{Pkg: "lease", Op: op, Key: named(id), Read: true}
	type answer struct {
		*pb.LeaseTimeToLiveResponse

		asked time.Time
	}
	a, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, _ bool) (answer, error) {
		asked := time.Now()
		r, err := c.service.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: int64(id), Keys: keys}, grpc.WaitForReady(true))
		switch {
		case err != nil:
			return answer{}, clientv3.ContextError(ctx, err)
		case r.GetTTL() < 0:
			return answer{}, rpctypes.ErrLeaseNotFound
		}
		return answer{r, asked}, nil
	})
	return a.LeaseTimeToLiveResponse, a.asked, err
}

// visible are the keys below the namespace, without the library's own.
func (m *Manager) visible(keys [][]byte) []string {
	var out []string
	for _, abs := range keys {
		if key, ok := strings.CutPrefix(string(abs), m.ns); ok && !strings.HasPrefix(key, keyspace.Hidden) {
			out = append(out, key)
		}
	}
	slices.Sort(out) // etcd gives them as they come
	return out
}
