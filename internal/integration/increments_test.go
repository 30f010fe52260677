//nolint:paralleltest // each test has a cluster, and the machine, to itself
package integration_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

func isUnknown(err error) bool { return errors.Is(err, kv.ErrUnknownOutcome) }

// isFull reports whether etcd has refused a write because of its quota. Its outcome is unknown even
// with an operation slot.
func isFull(err error) bool {
	return err != nil && strings.Contains(err.Error(), rpctypes.ErrorDesc(rpctypes.ErrGRPCNoSpace))
}

// patience is more than a call waits for its answer in these suites. Who loses against the other
// clients, and then the leader, several times in a row, may wait for long.
const patience = 5 * time.Minute

func TestIncrements_ApplyOnceUnderLeaderLoss(t *testing.T) {
	faults := map[string]struct {
		fault func(*testing.T, *etcdtest.Cluster)
		every time.Duration
	}{
		"killed": {killLeader, 2 * time.Second},
		"frozen": {freezeLeader, 4 * time.Second},
	}
	for name, tc := range faults {
		t.Run(name, func(t *testing.T) {
			cluster := etcdtest.StartCluster(t, 3)
			const dir, workers, clients = "suite/", 16, 4
			count := newCounter()
			truth := newChronicle(t, cluster.Client(t), dir, count.clock)
			var stores [clients]*kv.Store // which share no turn
			for i := range stores {
				stores[i] = open(t, cluster.Endpoints()).KV()
			}
			var ids, slowest atomic.Int64
			began := time.Now()
			s := storm{workers: workers, rounds: scale(800, 10_000), faults: 3, every: tc.every}
			rounds, faults := s.run(t, func() { tc.fault(t, cluster) }, func(worker int) {
				ctx, stop := context.WithTimeout(t.Context(), patience)
				defer stop()
				id, store, at := int(ids.Add(1)), stores[worker%clients], count.clock()
				assert.NoError(t, count.add(ctx, worker, strconv.Itoa(id), addWithUpdate(store, dir, nothing)))
				raise(&slowest, count.clock()-at)
				if id%5 == 0 {
					count.read(ctx, worker, store, dir)
				}
			})
			v := count.judge(truth.read(t))
			t.Logf("%d increments in %v, the slowest in %v, the leader lost %d times; %d refused and made again; the stores: %+v",
				rounds, time.Since(began).Round(time.Millisecond), time.Duration(slowest.Load()).Round(time.Millisecond),
				faults, count.refused, sum(stores[:]))
			assert.Equal(t, verdict{Acknowledged: rounds, Final: rounds, History: porcupine.Ok}, v)
			e, err := stores[0].Get(t.Context(), dir+counterKey)
			require.NoError(t, err)
			n, _, err := parseCount(string(e.Value))
			require.NoError(t, err)
			assert.Equal(t, rounds, n)
		})
	}
}

// raise makes n at least as large as to.
func raise(n *atomic.Int64, to int64) {
	for old := n.Load(); old < to && !n.CompareAndSwap(old, to); old = n.Load() {
	}
}

// sum adds the counters of stores up.
func sum(stores []*kv.Store) (all kv.Stats) {
	for _, s := range stores {
		one := s.Stats()
		all.Calls += one.Calls
		all.Retries += one.Retries
		all.Unknown += one.Unknown
		all.Conflicts += one.Conflicts
	}
	return all
}

// The answer to an increment is lost after it was applied, and somebody else counts on before it is
// made again.
func TestIncrements_ApplyOnceWhenResponseIsLost(t *testing.T) {
	cluster := etcdtest.StartCluster(t, 3)
	leader := cluster.Leader(t)
	proxy := leader.Proxy(t)
	direct := cluster.Client(t)
	bystander := open(t, cluster.Endpoints()).KV()

	faults := map[string]func(t *testing.T){
		"with the connection": func(*testing.T) { proxy.Cut() },
		"with the leader": func(*testing.T) {
			leader.Kill()
			proxy.Cut()
			leader.Launch()
			cluster.WaitReady()
		},
	}
	// loses makes one increment through the proxy, and has its answer lost.
	loses := func(t *testing.T, name string, lose func(*testing.T), through func(dir string, between func()) adder) verdict {
		dir := name + "/"
		count := newCounter()
		truth := newChronicle(t, direct, dir, count.clock)
		var calls atomic.Int64
		add := through(dir, func() {
			if calls.Add(1) == 2 {
				proxy.Hold(false, true)
			}
		})
		t.Cleanup(proxy.Heal)
		require.NoError(t, count.add(t.Context(), 1, "first", add))
		done := make(chan error, 1)
		go func() { done <- count.add(t.Context(), 1, "lost", add) }()
		require.Eventually(t, func() bool {
			r, err := direct.Get(t.Context(), dir+counterKey)
			return err == nil && len(r.Kvs) == 1 && strings.HasSuffix(string(r.Kvs[0].Value), "lost")
		}, 30*time.Second, 5*time.Millisecond)
		lose(t)
		require.NoError(t, count.add(t.Context(), 2, "next", addWithUpdate(bystander, dir, nothing)))
		proxy.Heal()
		require.NoError(t, <-done)
		return count.judge(truth.read(t))
	}
	for name, lose := range faults {
		t.Run(name+" counts once with WithOnce", func(t *testing.T) {
			c := open(t, proxy.Endpoints())
			v := loses(t, name+" once", lose, func(dir string, between func()) adder {
				return addWithUpdate(c.KV(), dir, between)
			})
			assert.Equal(t, verdict{Acknowledged: 3, Final: 3, History: porcupine.Ok}, v)
		})
		t.Run(name+" counts twice for who reads again", func(t *testing.T) {
			cli := newClient(t, proxy.Endpoints())
			v := loses(t, name+" naive", lose, func(dir string, between func()) adder {
				return addByReadingAgain(cli, dir, between)
			})
			assert.Equal(t, verdict{Acknowledged: 3, Final: 4, Twice: []string{"lost"}, History: porcupine.Illegal}, v)
		})
	}
}

// The checks above are worth something only if they catch what is wrong under the same faults.
func TestIncrements_CheckFindsNaiveRetries(t *testing.T) {
	if !scale(false, true) {
		t.Skip("it waits for bad luck: ETCDKIT_LONG is not set")
	}
	cluster := etcdtest.StartCluster(t, 3)
	const dir, workers, clients = "suite/", 16, 4
	count := newCounter()
	truth := newChronicle(t, cluster.Client(t), dir, count.clock)
	var add [clients]adder
	for i := range add {
		add[i] = addByReadingAgain(cluster.Client(t), dir, nothing)
	}
	var ids atomic.Int64
	s := storm{workers: workers, rounds: 1, faults: 20, every: 4 * time.Second}
	rounds, faults := s.run(t, func() { freezeLeader(t, cluster) }, func(worker int) {
		assert.NoError(t, count.add(t.Context(), worker, strconv.FormatInt(ids.Add(1), 10), add[worker%clients]))
	})
	v := count.judge(truth.read(t))
	t.Logf("%d increments, the leader frozen %d times: %d happened twice", rounds, faults, len(v.Twice))
	assert.NotEmpty(t, v.Twice)
	assert.Greater(t, v.Final, v.Acknowledged)
	assert.Equal(t, porcupine.Illegal, v.History)
}
