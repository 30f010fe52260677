package etcdkit

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// hedgeMembers lets slow calls make their second attempts at another member, over a connection to that member alone. The
// balanced connection could pick the slow one again.
type hedgeMembers struct{ *core }

var _ retry.Members = hedgeMembers{}

// Several reports whether the client has several endpoints.
func (m hedgeMembers) Several() bool { return m.patrol.several() }

// Other returns the connection to a member in use that is not at addr.
func (m hedgeMembers) Other(addr string) (grpc.ClientConnInterface, func(), bool) {
	eps := m.patrol.inUse()
	if addr == "" && len(eps) < 2 {
		return nil, nil, false // it may be the one
	}
	ep, ok := m.lines.other(eps, addr)
	if !ok {
		return nil, nil, false
	}
	c, _, err := m.lines.take(ep)
	if err != nil {
		return nil, nil, false
	}
	return c.ClientConn, func() { m.lines.leave(ep, c, false) }, true
}

// Evicted reports whether the member at addr is left out.
func (m hedgeMembers) Evicted(addr string) (bool, <-chan struct{}) {
	return m.patrol.evictedAt(m.lines.endpointAt(addr))
}

// Slower has the member at addr answer a linearizable read when it was the slower one twice: one whose disk hangs goes on
// answering health checks.
func (m hedgeMembers) Slower(addr string) { m.patrol.slower(m.lines.endpointAt(addr)) }

// read asks ep for a linearizable read. A permission error proves that the member answered.
func (c *core) read(ctx context.Context, ep, key string) error {
	err := c.lines.ask(ctx, ep, func(conn *grpc.ClientConn) error {
		_, err := pb.NewKVClient(conn).Range(clientv3.WithRequireLeader(ctx), &pb.RangeRequest{Key: []byte(key), CountOnly: true})
		return err
	})
	if err == nil {
		return nil
	}
	if _, condition := retry.Classify(err, false); errors.Is(condition, ErrPermission) {
		return nil
	}
	return err
}
