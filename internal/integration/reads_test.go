//nolint:paralleltest // each test has a cluster, and the machine, to itself
package integration_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// sample is one read.
type sample struct {
	at, took time.Duration // since the fault
	err      error
}

// readFor reads key with a second for each read, from several goroutines, until stop is closed.
func readFor(t *testing.T, s *kv.Store, key string, readers int, stop <-chan struct{}) (samples func() []sample) {
	t.Helper()
	began := time.Now()
	var wg sync.WaitGroup
	all := make([][]sample, readers)
	for i := range readers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-t.Context().Done():
					return
				default:
				}
				at := time.Since(began)
				err := readOnce(t.Context(), s, key)
				all[i] = append(all[i], sample{at: at, took: time.Since(began) - at, err: err})
			}
		})
	}
	t.Cleanup(wg.Wait)
	return func() (out []sample) {
		wg.Wait()
		for _, some := range all {
			out = append(out, some...)
		}
		return out
	}
}

func readOnce(ctx context.Context, s *kv.Store, key string) error {
	ctx, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	_, err := s.Get(ctx, key)
	return err
}

// figures sums samples up.
type figures struct {
	reads, failed int
	slowest       time.Duration
	last          error
}

func (f figures) String() string {
	return fmt.Sprintf("%d reads, %d failed, the slowest took %v", f.reads, f.failed, f.slowest.Round(time.Millisecond))
}

// within sums up the reads that began in [from, to).
func within(samples []sample, from, to time.Duration) (f figures) {
	for _, s := range samples {
		if s.at < from || s.at >= to {
			continue
		}
		f.reads++
		f.slowest = max(f.slowest, s.took)
		if s.err != nil {
			f.failed++
			f.last = s.err
		}
	}
	return f
}

// follower is a member that does not lead.
func follower(t *testing.T, c *etcdtest.Cluster) *etcdtest.Server {
	t.Helper()
	leader := c.Leader(t)
	for _, s := range c.Members {
		if s != leader {
			return s
		}
	}
	require.FailNow(t, "there is no follower")
	return nil
}

func TestReads_ContinueWhileAFollowerIsPaused(t *testing.T) {
	cluster := etcdtest.StartCluster(t, 3)
	c := open(t, cluster.Endpoints())
	const key = "suite/key"
	_, err := c.KV().Put(t.Context(), key, []byte("v"))
	require.NoError(t, err)

	frozen := follower(t, cluster)
	frozen.Pause()
	began, stop := time.Now(), make(chan struct{})
	finish := sync.OnceFunc(func() { close(stop) })
	defer finish()
	samples := readFor(t, c.KV(), key, 4, stop)
	evicted := func() bool { return len(c.Stats().Evicted) > 0 }
	require.Eventually(t, evicted, 15*time.Second, 5*time.Millisecond, "it is left out within 5 s")
	out := time.Since(began)
	assert.Equal(t, []string{frozen.Endpoint()}, c.Stats().Evicted)
	assert.NotContains(t, c.Raw().Endpoints(), frozen.Endpoint())
	spend(t, scale(3*time.Second, time.Minute-out))

	frozen.Resume()
	resumed := time.Since(began)
	require.Eventually(t, func() bool { return !evicted() }, 30*time.Second, 5*time.Millisecond)
	back := time.Since(began)
	assert.ElementsMatch(t, cluster.Endpoints(), c.Raw().Endpoints())
	assert.EqualValues(t, 1, c.Stats().Readmissions)
	spend(t, 500*time.Millisecond)
	finish()

	all := samples()
	warm, after := within(all, time.Second, resumed), within(all, out, time.Hour)
	t.Logf("left out after %v, back %v after it went on", out.Round(time.Millisecond), (back - resumed).Round(time.Millisecond))
	t.Logf("in the first second: %v", within(all, 0, time.Second))
	t.Logf("until it was left out: %v", within(all, 0, out))
	t.Logf("after the first second: %v", warm)
	t.Logf("since it was left out: %v", after)
	assert.Zero(t, after.failed, "%v", after.last)
	assert.LessOrEqual(t, warm.failed*1000, warm.reads, "%v", warm.last)
}

func TestReads_ContinueWhileAMemberIsPartitioned(t *testing.T) {
	for _, who := range []string{"follower", "leader"} {
		t.Run(who, func(t *testing.T) {
			cluster := newCluster(t)
			c := open(t, cluster.Endpoints())
			const key, reads = "suite/key", 30
			_, err := c.KV().Put(t.Context(), key, []byte("v"))
			require.NoError(t, err)
			i := cluster.WaitLeader(t)
			if who == "follower" {
				i = (i + 1) % 3
			}
			cut := cluster.Members[i]
			cut.InjectPartition(t, cluster.Members[(i+1)%3], cluster.Members[(i+2)%3])
			began := time.Now()
			var slowest time.Duration
			for range reads {
				at := time.Now()
				assert.NoError(t, readOnce(t.Context(), c.KV(), key))
				slowest = max(slowest, time.Since(at))
			}
			t.Logf("%d reads in %v, the slowest in %v", reads, time.Since(began), slowest)

			alone := newClient(t, []string{cut.GRPCURL})
			ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer stop()
			_, err = alone.Get(ctx, key)
			require.Error(t, err, "the member is cut off")
			cut.RecoverPartition(t, cluster.Members[(i+1)%3], cluster.Members[(i+2)%3])
		})
	}
}

func TestReads_StayMonotonicDuringRollingRestart(t *testing.T) {
	cluster := etcdtest.StartCluster(t, 3)
	c := open(t, cluster.Endpoints())
	const key, readers = "suite/key", 16
	var written atomic.Int64 // the revision of the last write that was acknowledged
	write := func(ctx context.Context) error {
		rev, err := c.KV().Put(ctx, key, []byte("v"))
		if err == nil {
			written.Store(rev)
		}
		return err
	}
	require.NoError(t, write(t.Context()))
	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for ctx.Err() == nil {
			_ = write(ctx) // it may fail: a put is not made twice
		}
	})
	defer writer.Wait()
	defer stop()

	var next int
	restart := func() {
		member := cluster.Members[next%3]
		next++
		member.Stop()
		spend(t, 500*time.Millisecond)
		member.Launch()
		member.WaitReady()
	}
	var slowest atomic.Int64
	s := storm{workers: readers, rounds: scale(2_000, 10_000), faults: scale(3, 9), every: 100 * time.Millisecond}
	rounds, faults := s.run(t, restart, func(int) {
		floor, at := written.Load(), time.Now()
		e, err := c.KV().Get(t.Context(), key)
		assert.NoError(t, err)
		assert.GreaterOrEqual(t, e.ModRevision, floor)
		raise(&slowest, int64(time.Since(at)))
	})
	t.Logf("%d reads, %d restarts, the slowest read took %v; %+v", rounds, faults, time.Duration(slowest.Load()).Round(time.Millisecond), c.Stats().KV)
}
