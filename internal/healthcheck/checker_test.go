package healthcheck_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/healthcheck"
)

// state is the state of an endpoint of a fakeCluster.
type state int

const (
	healthy  state = iota
	frozen         // probes time out
	refusing       // probes fail at once
)

// fakeCluster is both the client and the network of a Checker. Its fields are set before it runs.
type fakeCluster struct {
	logger      *slog.Logger
	read        func(ctx context.Context, ep string) error // nil: like a probe
	fetchStatus healthcheck.StatusFunc                     // nil: a supported version

	mu             sync.Mutex
	endpoints      []string // of the client
	states         map[string]state
	probes         map[string]int
	retained       []string        // by the last call of Retain
	sets           int             // calls of SetEndpoints
	onSetEndpoints func()          // called by the next SetEndpoints, after its effect
	onFreeze       func(ep string) // a call at a frozen endpoint is overdue
}

var (
	_ healthcheck.Balancer = (*fakeCluster)(nil)
	_ healthcheck.Prober   = (*fakeCluster)(nil)
)

func newFakeCluster(eps ...string) *fakeCluster {
	return &fakeCluster{
		logger: slog.New(slog.DiscardHandler), endpoints: eps, states: map[string]state{}, probes: map[string]int{},
		onFreeze: func(string) {},
	}
}

// Endpoints returns the endpoints of the client.
func (f *fakeCluster) Endpoints() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.endpoints)
}

// SetEndpoints replaces the endpoints of the client.
func (f *fakeCluster) SetEndpoints(eps ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endpoints, f.sets = eps, f.sets+1
	if f.onSetEndpoints != nil {
		f.onSetEndpoints()
		f.onSetEndpoints = nil
	}
}

// Probe fails at once if ep refuses connections, and at the end of ctx if it is frozen.
func (f *fakeCluster) Probe(ctx context.Context, ep string) error {
	f.mu.Lock()
	s := f.states[ep]
	f.probes[ep]++
	f.mu.Unlock()
	switch s {
	case frozen:
		<-ctx.Done()
		return ctx.Err()
	case refusing:
		return errors.New("connection refused")
	}
	return nil
}

// Read calls read, or else Probe.
func (f *fakeCluster) Read(ctx context.Context, ep, _ string) error {
	if f.read != nil {
		return f.read(ctx, ep)
	}
	return f.Probe(ctx, ep)
}

// IsBroken reports whether ep refuses connections.
func (f *fakeCluster) IsBroken(ep string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.states[ep] == refusing
}

// Retain records eps.
func (f *fakeCluster) Retain(eps []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retained = eps
}

// set changes the state of endpoints.
func (f *fakeCluster) set(s state, eps ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ep := range eps {
		f.states[ep] = s
		if s == frozen {
			go f.onFreeze(ep)
		}
	}
}

// probeCount returns how often ep was probed.
func (f *fakeCluster) probeCount(ep string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.probes[ep]
}

// awaitProbe waits until ep is probed again.
func (f *fakeCluster) awaitProbe(ep string) {
	for before := f.probeCount(ep); f.probeCount(ep) == before; {
		time.Sleep(10 * time.Millisecond)
	}
}

// run runs f in a bubble with a Checker of the cluster, which has evicted some endpoints before.
func (f *fakeCluster) run(t *testing.T, evicted []string, test func(t *testing.T, c *healthcheck.Checker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fetch := f.fetchStatus
		if fetch == nil {
			fetch = func(context.Context, string) (*pb.StatusResponse, error) {
				return &pb.StatusResponse{Version: "3.7.3"}, nil
			}
		}
		c := healthcheck.New(healthcheck.Config{
			Balancer: f, Prober: f, Versions: healthcheck.NewVersions(fetch, f.logger), Logger: f.logger,
		})
		var failed endpoint.Errors
		for _, ep := range evicted {
			failed = append(failed, &endpoint.Error{Endpoint: ep, Err: errors.New("no answer yet")})
		}
		if failed != nil {
			c.Evict(failed)
		}
		f.onFreeze = c.ReportOverdue
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { c.Run(ctx) })
		synctest.Wait()
		test(t, c)
	})
}

func TestChecker_EvictsFrozenMemberWithinFiveSeconds(t *testing.T) {
	t.Parallel()
	for after := time.Duration(0); after <= 4*time.Second; after += 250 * time.Millisecond {
		t.Run(after.String(), func(t *testing.T) {
			t.Parallel()
			cluster := newFakeCluster("a", "b", "c")
			cluster.run(t, nil, func(t *testing.T, c *healthcheck.Checker) {
				time.Sleep(after)
				cluster.set(frozen, "b")
				time.Sleep(5 * time.Second)
				assert.Equal(t, []string{"a", "c"}, cluster.Endpoints())
				out, evicted, readmitted := c.Evicted()
				assert.Equal(t, []string{"b"}, out)
				assert.EqualValues(t, 1, evicted)
				assert.Zero(t, readmitted)
				assert.Equal(t, []string{"a", "b", "c"}, c.Endpoints(), "evicted endpoints are included")

				cluster.set(healthy, "b")
				before := cluster.probeCount("b")
				for !slices.Contains(cluster.Endpoints(), "b") {
					time.Sleep(100 * time.Millisecond)
				}
				assert.Equal(t, []string{"a", "b", "c"}, cluster.Endpoints())
				assert.Equal(t, 3, cluster.probeCount("b")-before, "after three successes")
			})
		})
	}
}

func TestChecker_KeepsEndpointAfterOneFailure(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a", "b")
	cluster.run(t, nil, func(t *testing.T, _ *healthcheck.Checker) {
		for range 10 {
			cluster.set(refusing, "b")
			cluster.awaitProbe("b")
			cluster.set(healthy, "b")
			time.Sleep(3 * time.Second)
		}
		assert.Zero(t, cluster.sets)
	})
}

func TestChecker_NeverEvictsLastEndpointThatAnswers(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a", "b", "c")
	cluster.run(t, nil, func(t *testing.T, _ *healthcheck.Checker) {
		cluster.set(refusing, "a", "b")
		time.Sleep(10 * time.Second)
		assert.Equal(t, []string{"c"}, cluster.Endpoints())
	})
}

func TestChecker_ReadmitsAllIfNoneAnswers(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]state{"frozen": frozen, "refusing": refusing} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := newFakeCluster("a", "b", "c")
			cluster.run(t, nil, func(t *testing.T, _ *healthcheck.Checker) {
				cluster.set(s, "b")
				time.Sleep(5 * time.Second)
				assert.Equal(t, []string{"a", "c"}, cluster.Endpoints())
				cluster.set(s, "a", "c")
				time.Sleep(10 * time.Second)
				assert.Equal(t, []string{"a", "b", "c"}, cluster.Endpoints())
				cluster.set(healthy, "b")
				time.Sleep(5 * time.Second)
				assert.Equal(t, []string{"b"}, cluster.Endpoints(), "the only one that answers")
				cluster.set(healthy, "a", "c")
				time.Sleep(10 * time.Second)
				assert.Equal(t, []string{"a", "b", "c"}, cluster.Endpoints())
			})
		})
	}
}

func TestChecker_ReadmitsAtOnceIfLastEndpointFails(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a", "b")
	cluster.run(t, nil, func(t *testing.T, _ *healthcheck.Checker) {
		cluster.set(refusing, "a")
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"b"}, cluster.Endpoints())
		cluster.set(healthy, "a")
		cluster.awaitProbe("a")
		// As in a rolling restart: the next member stops before the first is readmitted.
		cluster.set(refusing, "b")
		time.Sleep(4 * time.Second)
		assert.Equal(t, []string{"a"}, cluster.Endpoints())
	})
}

func TestChecker_AdmitsNewEndpointAfterFirstSuccess(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a", "b")
	cluster.set(frozen, "b")
	cluster.run(t, []string{"b"}, func(t *testing.T, c *healthcheck.Checker) {
		assert.Equal(t, []string{"a"}, cluster.Endpoints())
		time.Sleep(10 * time.Second)
		cluster.set(healthy, "b")
		time.Sleep(3 * time.Second)
		assert.Equal(t, []string{"a", "b"}, cluster.Endpoints())
		_, evicted, readmitted := c.Evicted()
		assert.EqualValues(t, 1, evicted, "the eviction by Evict counts")
		assert.EqualValues(t, 1, readmitted)
	})
}

func TestChecker_OneFailureOfLastEndpointReadmitsNone(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a", "b")
	cluster.run(t, nil, func(t *testing.T, _ *healthcheck.Checker) {
		cluster.set(frozen, "a")
		time.Sleep(6 * time.Second)
		assert.Equal(t, []string{"b"}, cluster.Endpoints())
		for range 5 {
			cluster.set(refusing, "b")
			cluster.awaitProbe("b")
			cluster.set(healthy, "b")
			time.Sleep(5 * time.Second)
		}
		assert.Equal(t, []string{"b"}, cluster.Endpoints())
		assert.Equal(t, 1, cluster.sets, "the frozen one was not readmitted in between")
	})
}

func TestChecker_AdoptsEndpointsSetConcurrently(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a", "b", "c")
	cluster.onSetEndpoints = func() { cluster.endpoints = []string{"x", "y"} }
	cluster.run(t, nil, func(t *testing.T, c *healthcheck.Checker) {
		cluster.set(refusing, "b")
		for cluster.probeCount("x") == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		assert.Equal(t, []string{"x", "y"}, cluster.Endpoints())
		out, evicted, _ := c.Evicted()
		assert.Empty(t, out)
		assert.Zero(t, evicted, "no eviction has taken effect")
	})
}

func TestChecker_AdoptsEndpointsSetByUser(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a", "b", "c")
	cluster.run(t, nil, func(t *testing.T, c *healthcheck.Checker) {
		cluster.set(refusing, "b")
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"a", "c"}, cluster.Endpoints())
		cluster.SetEndpoints("c", "d")
		assert.Equal(t, []string{"c", "d"}, c.Endpoints())
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"c", "d"}, cluster.Endpoints())
		assert.Equal(t, []string{"c", "d"}, cluster.retained, "the other connections are closed")
		out, _, _ := c.Evicted()
		assert.Empty(t, out)
		before := cluster.probeCount("a")
		cluster.set(frozen, "d")
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"c"}, cluster.Endpoints())
		assert.Equal(t, before, cluster.probeCount("a"), "removed endpoints are not probed")
	})
}

func TestChecker_KeepsEndpointsSetDuringRound(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a", "b", "c")
	cluster.run(t, nil, func(t *testing.T, _ *healthcheck.Checker) {
		time.Sleep(100 * time.Millisecond)
		cluster.set(frozen, "b")
		// b is being probed for the second time and is about to be evicted.
		time.Sleep(3500 * time.Millisecond)
		cluster.SetEndpoints("b", "d")
		time.Sleep(500 * time.Millisecond)
		assert.Equal(t, []string{"b", "d"}, cluster.Endpoints())
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"d"}, cluster.Endpoints())
	})
}

func TestChecker_DoesNotProbeSingleHealthyEndpoint(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a")
	cluster.set(frozen, "a")
	cluster.run(t, nil, func(t *testing.T, _ *healthcheck.Checker) {
		time.Sleep(time.Minute)
		cluster.set(healthy, "a")
		time.Sleep(5 * time.Second)
		known := cluster.probeCount("a")
		cluster.set(frozen, "a")
		time.Sleep(time.Minute)
		assert.Equal(t, known, cluster.probeCount("a"))
		assert.Zero(t, cluster.sets)
	})
}

func TestChecker_ProbesHealthyEndpointsOnceAMinute(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a", "b")
	cluster.run(t, nil, func(t *testing.T, _ *healthcheck.Checker) {
		time.Sleep(20 * time.Minute)
		assert.InDelta(t, 20, cluster.probeCount("a"), 4)
		assert.InDelta(t, 20, cluster.probeCount("b"), 4)
		assert.Zero(t, cluster.sets)
	})
}

func TestChecker_ProbesAtOnceIfCallIsOverdue(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a", "b", "c")
	cluster.run(t, nil, func(t *testing.T, c *healthcheck.Checker) {
		time.Sleep(10 * time.Second)
		before := []int{cluster.probeCount("a"), cluster.probeCount("b"), cluster.probeCount("c")}
		c.ReportOverdue("b")
		synctest.Wait()
		assert.Equal(t, []int{before[0], before[1] + 1, before[2]}, []int{cluster.probeCount("a"), cluster.probeCount("b"), cluster.probeCount("c")})
		for range 100 {
			c.ReportOverdue("b")
		}
		time.Sleep(1900 * time.Millisecond)
		assert.Equal(t, before[1]+1, cluster.probeCount("b"), "not twice in two seconds")
		time.Sleep(2100 * time.Millisecond)
		assert.Equal(t, before[1]+2, cluster.probeCount("b"), "but after that")
		c.ReportOverdue("")
		time.Sleep(2 * time.Second)
		assert.Equal(t, []int{before[0] + 1, before[1] + 3, before[2] + 1}, []int{cluster.probeCount("a"), cluster.probeCount("b"), cluster.probeCount("c")})
	})
}

// A user without the permission, or a proxy that does not know the request, refuses it forever.
func TestChecker_BacksOffIfVersionIsRefused(t *testing.T) {
	t.Parallel()
	for _, eps := range [][]string{{"a"}, {"a", "b"}} {
		cluster := newFakeCluster(eps...)
		var requests atomic.Int64
		cluster.fetchStatus = func(context.Context, string) (*pb.StatusResponse, error) {
			requests.Add(1)
			return nil, errors.New("permission denied")
		}
		cluster.run(t, nil, func(t *testing.T, _ *healthcheck.Checker) {
			time.Sleep(time.Hour)
			assert.InDelta(t, 20*len(eps), requests.Load(), 5*float64(len(eps)), "every 5 minutes after the first ones")
		})
	}
}

// A member whose disk hangs answers health checks, but no linearizable read.
func TestChecker_EvictsMemberThatFailsReads(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a", "b", "c")
	var hangs atomic.Bool
	var reads atomic.Int64
	hangs.Store(true)
	cluster.read = func(ctx context.Context, ep string) error {
		reads.Add(1)
		if !hangs.Load() || ep != "b" {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	cluster.run(t, nil, func(t *testing.T, c *healthcheck.Checker) {
		time.Sleep(10 * time.Second)
		c.ReportSlow("b")
		time.Sleep(10 * time.Second)
		assert.Zero(t, reads.Load(), "one slow call has no effect")
		assert.Zero(t, cluster.sets)

		evicted, changed := c.IsEvicted("b")
		assert.False(t, evicted)
		c.ReportSlow("b")
		start := time.Now()
		<-changed
		assert.LessOrEqual(t, time.Since(start), time.Second, "one read is enough")
		evicted, _ = c.IsEvicted("b")
		assert.True(t, evicted)
		assert.Equal(t, []string{"a", "c"}, cluster.Endpoints())
		time.Sleep(time.Minute)
		assert.Equal(t, []string{"a", "c"}, cluster.Endpoints(), "health checks do not readmit it")

		hangs.Store(false)
		time.Sleep(15 * time.Second)
		assert.Equal(t, []string{"a", "b", "c"}, cluster.Endpoints())
		before := reads.Load()
		time.Sleep(10 * time.Second)
		assert.Equal(t, before, reads.Load(), "it is probed like the others again")
	})
}

// Two calls that were slow by chance cost one read.
func TestChecker_KeepsSlowMemberThatAnswersReads(t *testing.T) {
	t.Parallel()
	cluster := newFakeCluster("a", "b", "c")
	cluster.run(t, nil, func(t *testing.T, c *healthcheck.Checker) {
		time.Sleep(time.Second)
		before := cluster.probeCount("b")
		c.ReportSlow("b")
		c.ReportSlow("b")
		synctest.Wait()
		assert.Equal(t, 1, cluster.probeCount("b")-before, "at once")
		c.ReportSlow("elsewhere")
		time.Sleep(10 * time.Second)
		assert.Zero(t, cluster.sets)
	})
}
