//nolint:paralleltest // each test has a cluster, and the machine, to itself
package integration_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestEndpoints_ChangeLosesNoCall(t *testing.T) {
	cluster := etcdtest.StartCluster(t, 3)
	c := open(t, cluster.Endpoints())
	calls := scale(250, 1000) // at a time
	key := func(worker int) string { return fmt.Sprintf("suite/%d", worker) }
	last := make([]int64, calls) // the revision of each worker's last write
	change := func() {
		some := cluster.Endpoints()
		rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		c.Raw().SetEndpoints(some[:1+rand.IntN(len(some))]...)
	}
	began := time.Now()
	s := storm{workers: calls, rounds: scale(2_500, 200_000), faults: scale(20, 200), every: 250 * time.Millisecond} // time to connect anew
	rounds, changes := s.run(t, change, func(worker int) {
		if last[worker] == 0 || rand.IntN(2) == 0 {
			rev, err := c.KV().Put(t.Context(), key(worker), []byte("v"))
			assert.NoError(t, err)
			last[worker] = rev
			return
		}
		e, err := c.KV().Get(t.Context(), key(worker))
		assert.NoError(t, err)
		assert.Equal(t, last[worker], e.ModRevision)
	})
	t.Logf("%d calls in %v, %d changes", rounds, time.Since(began), changes)

	c.Raw().SetEndpoints(cluster.Endpoints()...)
	assert.ElementsMatch(t, cluster.Endpoints(), c.Stats().Endpoints)
	for worker, rev := range last {
		e, err := c.KV().Get(t.Context(), key(worker))
		require.NoError(t, err)
		require.Equal(t, rev, e.ModRevision)
	}
	assert.Zero(t, c.Stats().KV.Unknown)
}
