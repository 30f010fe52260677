package etcdtest

import (
	"slices"
	"testing"

	"github.com/etcdkit/etcdkit"
	harness "github.com/etcdkit/etcdkit/internal/etcdtest"
)

// Cluster is an etcd cluster of one test. Each member can be paused, killed and restarted by
// itself.
type Cluster struct {
	harness *harness.Cluster
	members []*Server
}

// StartCluster starts a cluster for this test and returns when each member answers. The cluster and
// its data are gone when the test ends. StartCluster ends the test if the cluster cannot be
// started.
func StartCluster(tb testing.TB, members int, o ...Option) *Cluster {
	tb.Helper()
	var opts options
	for _, opt := range o {
		opt(&opts)
	}
	c := &Cluster{harness: harness.StartCluster(tb, members, opts.harness...)}
	for _, s := range c.harness.Members {
		c.members = append(c.members, newServer(tb, s, members == 1))
	}
	return c
}

// Config returns the configuration of a client of all members, with a SessionTTL of 2 s.
func (c *Cluster) Config() etcdkit.Config { return configOf(c.harness.Endpoints()...) }

// Open returns a client of all members, which is closed when the test ends. See [OpenConfig].
func (c *Cluster) Open(tb testing.TB, o ...etcdkit.Option) *etcdkit.Client {
	tb.Helper()
	return OpenConfig(tb, c.Config(), o...)
}

// Members returns the members, always in the same order.
func (c *Cluster) Members() []*Server { return slices.Clone(c.members) }

// Leader returns the member that is the Raft leader. It waits up to 30 s for an election, then ends
// the test. Each paused member makes it a second slower.
func (c *Cluster) Leader(tb testing.TB) *Server {
	tb.Helper()
	return c.members[slices.Index(c.harness.Members, c.harness.Leader(tb))]
}
