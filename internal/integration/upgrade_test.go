//nolint:paralleltest // a cluster, and the machine, to itself
package integration_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

// upgradeEnv makes TestRollingUpgrade run: it builds two more servers.
const upgradeEnv = "ETCDKIT_UPGRADE"

// serverOf builds a server of another version.
func serverOf(t *testing.T, name string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", filepath.Join(repository, "tools", "servers.sh"), name)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// A cluster is upgraded from etcd 3.5 to 3.6 and to 3.7, one member at a time, while counters are
// incremented, a mutex goes around, a session is kept and a watch follows.
func TestRollingUpgrade(t *testing.T) {
	if os.Getenv(upgradeEnv) == "" {
		t.Skipf("%s is not set", upgradeEnv)
	}
	old, middle := serverOf(t, "etcd-3.5"), serverOf(t, "etcd-3.6")
	// etcd 3.7 panics where its log holds entries of 3.5, so that the members need a snapshot of
	// 3.6 first.
	const snapshotCount = 20
	cluster := etcdtest.StartCluster(t, 3, etcdtest.WithBinary(old), etcdtest.WithFlags("--snapshot-count="+strconv.Itoa(snapshotCount)))
	const dir, clients = "suite/", 3
	count := newCounter()
	truth := newChronicle(t, cluster.Client(t), dir, count.clock)
	var stores [clients]*kv.Store
	var lockers [clients]*lock.Locker
	for i := range clients {
		c := open(t, cluster.Endpoints())
		stores[i], lockers[i] = c.KV(), c.Locks()
	}
	c := open(t, cluster.Endpoints())
	session, err := c.Leases().OpenSession(t.Context())
	require.NoError(t, err)
	state := &seen{}
	sub, err := c.Watcher().Subscribe(watch.Prefix(dir), state.handle)
	require.NoError(t, err)
	<-sub.Ready()

	var ids atomic.Int64
	steps := []struct{ version, path string }{{"3.6", middle}, {"3.7", ""}}
	s := storm{workers: 2 * clients, rounds: 100, faults: 3 * len(steps), every: 2 * time.Second}
	next := 0
	rounds, _ := s.run(t, func() {
		if next == 3*len(steps) {
			return
		}
		step, member := steps[next/3], cluster.Members[next%3]
		next++
		member.SetBinary(step.path)
		member.Restart()
		t.Logf("%d increments, %d of 3 members run etcd %s", ids.Load(), (next-1)%3+1, step.version)
		if next%3 == 0 { // before that, members of the next version would not join
			require.Eventually(t, func() bool {
				return member.Metric(`etcd_cluster_version{cluster_version="`+step.version+`"}`) == 1
			}, 30*time.Second, 100*time.Millisecond)
			direct := cluster.Client(t)
			for range 3 * snapshotCount {
				insist(t, direct, "upgrade", step.version)
			}
		}
	}, func(worker int) {
		ctx, stop := context.WithTimeout(t.Context(), patience)
		defer stop()
		add := addWithUpdate(stores[worker%clients], dir, nothing)
		err := lockers[worker%clients].Mutex("upgrade").Do(ctx, func(ctx context.Context, _ *lock.Held) error {
			return count.add(ctx, worker, strconv.FormatInt(ids.Add(1), 10), add)
		})
		if err != nil {
			assert.True(t, isUnknown(err) || errors.Is(err, kv.ErrUnavailable) || errors.Is(err, lock.ErrLost), "%v", err)
		}
	})
	v := count.judge(truth.read(t))
	t.Logf("%d increments, %+v", rounds, v)
	assert.Empty(t, v.Twice)
	assert.Empty(t, v.Lost)
	assert.Equal(t, porcupine.Ok, v.History)
	assert.NoError(t, session.Err(), "the session was never lost")
	require.NoError(t, session.Close())
	require.Eventually(t, func() bool { return state.reached(truth.rev.Load()) }, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, sub.Close())
}
