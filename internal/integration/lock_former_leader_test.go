package integration_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

// A leader that is frozen for longer than a TTL may revoke a lease when it continues, although its
// successor has renewed it. The holder of a lock learns of that within two seconds, and its guarded
// writes are refused.
func TestMutex_FormerLeaderRevokesRenewedLease(t *testing.T) {
	t.Parallel()
	const ttl = 5 * time.Second
	cluster := etcdtest.StartCluster(t, 3)
	c, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: cluster.Endpoints(), SessionTTL: etcdkit.Duration(ttl)})
	require.NoError(t, err)
	defer c.Close()
	trials, lost := scale(1, 8), 0
	for range trials {
		held, err := c.Locks().Mutex("m").Lock(t.Context())
		require.NoError(t, err)
		leader := cluster.Leader(t)
		leader.Pause()
		spend(t, ttl+1500*time.Millisecond)
		leader.Resume()
		timer := time.NewTimer(2 * time.Second)
		select {
		case <-held.Context().Done():
			lost++
			assert.Eventually(t, func() bool {
				_, err := c.KV().Put(t.Context(), "k", nil, kv.WithGuard(held))
				return errors.Is(err, lock.ErrLost)
			}, 2*ttl, 10*time.Millisecond, "the key is gone by then, and with it the guard")
			require.ErrorIs(t, held.Release(t.Context()), lock.ErrLost)
		case <-timer.C:
			require.NoError(t, held.Verify(t.Context()), "the holder has not learned of the loss")
			assert.NoError(t, held.Release(t.Context()))
		}
	}
	t.Logf("%d of %d holds were lost", lost, trials)
}
