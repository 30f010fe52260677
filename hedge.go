package etcdkit

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// hedgeMembers sends the second attempt of a slow call to another member, over a connection to that
// member alone. The balanced connection could select the slow one again.
type hedgeMembers struct{ *core }

var _ retry.Members = hedgeMembers{}

// HasSeveral reports whether the client has more than one endpoint.
func (m hedgeMembers) HasSeveral() bool { return m.patrol.several() }

// Other returns the connection to a member in use that is not at addr.
func (m hedgeMembers) Other(addr string) (grpc.ClientConnInterface, func(), bool) {
	eps := m.patrol.inUse()
	if addr == "" && len(eps) < 2 {
		return nil, nil, false // the only endpoint may be the one at addr
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

// Evicted reports whether the member at addr is evicted. If not, the channel is closed on the next
// eviction.
func (m hedgeMembers) Evicted(addr string) (bool, <-chan struct{}) {
	return m.patrol.evictedAt(m.lines.endpointAt(addr))
}

// ReportSlow records that the member at addr was slower than another. After two such calls it is probed
// with a linearizable read, because a member whose disk hangs still answers health checks.
func (m hedgeMembers) ReportSlow(addr string) { m.patrol.slower(m.lines.endpointAt(addr)) }

// read makes a linearizable read at ep. A permission error proves that the member answered.
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
