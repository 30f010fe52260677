//nolint:paralleltest // each test has a cluster, and the machine, to itself
package integration_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestHealth_ReportsQuorumLossAndRecovery(t *testing.T) {
	cluster := etcdtest.StartCluster(t, 3)
	c := open(t, cluster.Endpoints())
	losses := map[string]struct{ stop, heal func(*etcdtest.Server) }{
		"two of three are frozen": {(*etcdtest.Server).Pause, (*etcdtest.Server).Resume},
		"two of three are killed": {(*etcdtest.Server).Kill, (*etcdtest.Server).Launch},
	}
	for name, loss := range losses {
		t.Run(name, func(t *testing.T) {
			leader := cluster.Leader(t)
			stopped := []*etcdtest.Server{leader, cluster.Members[0]}
			if stopped[1] == leader {
				stopped[1] = cluster.Members[1]
			}
			for _, s := range stopped {
				loss.stop(s)
			}
			began := time.Now()
			h, err := c.Health(t.Context())
			took := time.Since(began)
			require.ErrorIs(t, err, etcdkit.ErrUnavailable)
			assert.ErrorContains(t, err, "no quorum: 1 of 3 members answer")
			assert.False(t, h.Quorum)
			assert.Less(t, took, 5*time.Second)
			for _, m := range h.Members {
				assert.Equal(t, m.Endpoint != stopped[0].Endpoint() && m.Endpoint != stopped[1].Endpoint(), m.Reachable, m.Endpoint)
			}

			for _, s := range stopped {
				loss.heal(s)
			}
			cluster.WaitReady()
			began = time.Now()
			require.Eventually(t, func() bool {
				h, err := c.Health(t.Context())
				return err == nil && h.Quorum
			}, 6*time.Second, 10*time.Millisecond, "it is told within 2 s")
			t.Logf("told after %v; healthy %v after the quorum was back", took, time.Since(began))
		})
	}
}
