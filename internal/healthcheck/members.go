package healthcheck

import (
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Members sends the second attempt of a slow call to another member, over a connection to that
// member alone. The balanced connection could select the slow one again.
type Members struct {
	Checker *Checker
	Pool    *endpoint.Pool
}

var _ retry.Members = (*Members)(nil)

// HasSeveral reports whether there is more than one endpoint.
func (m *Members) HasSeveral() bool { return m.Checker.HasSeveral() }

// Other returns the connection to a member in use that is not at addr.
func (m *Members) Other(addr string) (grpc.ClientConnInterface, func(), bool) {
	eps := m.Checker.InUse()
	if addr == "" && len(eps) < 2 {
		return nil, nil, false // the only endpoint may be the one at addr
	}
	ep, ok := m.Pool.Other(eps, addr)
	if !ok {
		return nil, nil, false
	}
	conn, release, err := m.Pool.Acquire(ep)
	if err != nil {
		return nil, nil, false
	}
	return conn, release, true
}

// Evicted reports whether the member at addr is evicted. If not, the channel is closed on the next
// eviction.
func (m *Members) Evicted(addr string) (bool, <-chan struct{}) {
	return m.Checker.IsEvicted(m.Pool.EndpointAt(addr))
}

// ReportSlow records that the member at addr was slower than another. After two such calls it is
// probed with a linearizable read, because a member whose disk hangs still answers health checks.
func (m *Members) ReportSlow(addr string) { m.Checker.ReportSlow(m.Pool.EndpointAt(addr)) }
