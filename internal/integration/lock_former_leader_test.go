package integration_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

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
		spend(t, 2*time.Second)
		keys, err := c.Raw().Get(t.Context(), "locks/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		require.NoError(t, err)
		if keys.Count > 0 {
			if err := held.Release(t.Context()); err != nil { // it could not be renewed in time
				require.ErrorIs(t, err, lock.ErrLost)
			}
			continue
		}
		lost++
		require.Eventually(t, func() bool { return held.Context().Err() != nil }, 2*time.Second, time.Millisecond, "the holder has not learned of the loss")
		_, err = c.KV().Put(t.Context(), "k", nil, kv.WithGuard(held))
		require.ErrorIs(t, err, lock.ErrLost)
		require.ErrorIs(t, held.Release(t.Context()), lock.ErrLost)
	}
	t.Logf("%d of %d holds were lost", lost, trials)
}
