package lease

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Describe says what etcd knows of a lease, with its keys in order: [ErrNotFound] if there is no such one. With access control,
// etcd tells only who may read all of the lease's keys, those outside the namespace included; others get [ErrPermission],
// and can use [Manager.TimeToLive]. It costs one RPC.
func (m *Manager) Describe(ctx context.Context, id clientv3.LeaseID) (Info, error) {
	return m.leaseInfo(ctx, "describe", id, true)
}

// TimeToLive says how long a lease has left, and was granted for: [ErrNotFound] if there is no such one. It tells no keys, and
// needs no permission. It costs one RPC.
func (m *Manager) TimeToLive(ctx context.Context, id clientv3.LeaseID) (Info, error) {
	return m.leaseInfo(ctx, "time to live", id, false)
}

func (m *Manager) leaseInfo(ctx context.Context, op string, id clientv3.LeaseID, keys bool) (Info, error) {
	if err := errors.Join(m.ready(), checkID(id)); err != nil {
		return Info{}, opError(op, "", err)
	}
	ctx, stop := m.callContext(ctx)
	defer stop()
	r, sentAt, err := m.queryLease(ctx, op, id, keys)
	if err != nil {
		return Info{}, err
	}
	out := leaseResult{id, sentAt, time.Duration(r.GetTTL()) * time.Second}.info()
	out.Granted = time.Duration(r.GetGrantedTTL()) * time.Second
	out.Keys, out.RaftTerm = m.visibleKeys(r.GetKeys()), r.GetHeader().GetRaftTerm()
	return out, nil
}

// queryLease asks etcd about a lease. The answer is as of a moment after asked.
func (c *core) queryLease(ctx context.Context, op string, id clientv3.LeaseID, keys bool) (r *pb.LeaseTimeToLiveResponse, sentAt time.Time, err error) {
	call := retry.Call{Pkg: "lease", Op: op, Key: formatLeaseID(id), Read: true}
	type response struct {
		*pb.LeaseTimeToLiveResponse

		sentAt time.Time
	}
	a, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, _ bool) (response, error) {
		sentAt := time.Now()
		r, err := c.service.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: int64(id), Keys: keys}, grpc.WaitForReady(true))
		switch {
		case err != nil:
			return response{}, clientv3.ContextError(ctx, err)
		case r.GetTTL() < 0:
			return response{}, rpctypes.ErrLeaseNotFound
		}
		return response{r, sentAt}, nil
	})
	return a.LeaseTimeToLiveResponse, a.sentAt, err
}

// visibleKeys are the keys below the namespace, without the library's own.
func (m *Manager) visibleKeys(keys [][]byte) []string {
	var out []string
	for _, abs := range keys {
		if key, ok := strings.CutPrefix(string(abs), m.ns); ok && !strings.HasPrefix(key, keyspace.Hidden) {
			out = append(out, key)
		}
	}
	slices.Sort(out) // etcd gives them as they come
	return out
}
