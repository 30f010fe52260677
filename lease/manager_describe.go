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
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Describe returns what etcd knows of a lease, and the keys on it in order. It returns
// [ErrNotFound] if the lease does not exist. With access control, the user must be permitted to
// read all keys on the lease, including those outside the namespace; otherwise Describe returns
// [ErrPermission], and [Manager.TimeToLive] can be used instead. It costs one RPC.
func (m *Manager) Describe(ctx context.Context, id clientv3.LeaseID) (Info, error) {
	return m.leaseInfo(ctx, "describe", id, true)
}

// TimeToLive returns the remaining and the granted TTL of a lease. It returns [ErrNotFound] if the
// lease does not exist. It returns no keys and requires no permission. It costs one RPC.
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

// queryLease asks etcd about a lease. The response is not older than sentAt. If keys is set, it
// includes the keys on the lease.
func (c *core) queryLease(ctx context.Context, op string, id clientv3.LeaseID, keys bool) (r *pb.LeaseTimeToLiveResponse, sentAt time.Time, err error) {
	call := retry.Call{Pkg: "lease", Op: op, Key: wire.FormatLeaseID(id), Read: true}
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

// visibleKeys returns the keys below the namespace, relative to it and sorted, without the
// library's own.
func (m *Manager) visibleKeys(keys [][]byte) []string {
	var out []string
	for _, abs := range keys {
		if key, ok := strings.CutPrefix(string(abs), m.ns); ok && !strings.HasPrefix(key, keyspace.Hidden) {
			out = append(out, key)
		}
	}
	slices.Sort(out) // etcd returns them in no particular order
	return out
}
