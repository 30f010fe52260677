package integration_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// idlePart is a part of a program that is open and has nothing to do.
type idlePart struct {
	name string
	open func(tb testing.TB, c *etcdkit.Client)
	peer func(tb testing.TB, c *clientv3.Client) // the same with client/v3; nil where it has no such thing

	most int // messages in a minute, with three endpoints
}

// What a client sends in a minute, at most.
const (
	idleMembers = 4  // one to each of three members in 48 s and more
	idleStream  = 3  // one in 24 s and more
	idleSession = 13 // of 15 s: one in 5 s
	idleKey     = 7  // on a lease of 30 s: one in 10 s
)

func idleParts() []idlePart {
	return []idlePart{
		{name: "Open", open: func(testing.TB, *etcdkit.Client) {}, peer: func(testing.TB, *clientv3.Client) {}, most: idleMembers},
		{name: "Session", open: idleOpenSession, peer: idlePeerSession, most: idleMembers + idleSession},
		{name: "Watch", open: idleWatches(1), peer: idlePeerWatches(1), most: idleMembers + idleStream},
		{name: "FourWatches", open: idleWatches(4), peer: idlePeerWatches(4), most: idleMembers + idleStream},
		{name: "Lock", open: idleLock, peer: idlePeerLock("lock"), most: idleMembers + idleSession + 2*idleStream},
		{name: "Cache", open: idleCache, most: idleMembers + idleStream},
		{name: "Replica", open: idleReplica, most: idleMembers + idleStream},
		{name: "Config", open: idleConfig, most: idleMembers + idleStream},
		{name: "Registration", open: idleRegistration, most: idleMembers + idleKey + idleStream},
		{name: "View", open: idleView, most: idleMembers + idleStream},
		{name: "Typical", open: func(tb testing.TB, c *etcdkit.Client) {
			for _, open := range []func(testing.TB, *etcdkit.Client){idleConfig, idleCache, idleRegistration, idleView, idleCandidate} {
				open(tb, c)
			}
		}, peer: func(tb testing.TB, c *clientv3.Client) {
			idlePeerWatches(3)(tb, c) // for configuration, cache and view
			idlePeerSession(tb, c)    // for a registration
			idlePeerLock("election")(tb, c)
		}, most: 30},
	}
}

func idleOpenSession(tb testing.TB, c *etcdkit.Client) {
	_, err := c.Leases().OpenSession(tb.Context())
	require.NoError(tb, err)
}

func idlePeerSession(tb testing.TB, c *clientv3.Client) {
	_, err := concurrency.NewSession(c, concurrency.WithTTL(15))
	require.NoError(tb, err)
}

func idleWatches(n int) func(tb testing.TB, c *etcdkit.Client) {
	return func(tb testing.TB, c *etcdkit.Client) {
		for i := range n {
			sub, err := c.Watcher().Subscribe(watch.Prefix(fmt.Sprintf("watch-%d/", i)), func(context.Context, watch.Batch) error { return nil })
			require.NoError(tb, err)
			<-sub.Ready()
		}
	}
}

func idlePeerWatches(n int) func(tb testing.TB, c *clientv3.Client) {
	return func(tb testing.TB, c *clientv3.Client) {
		for i := range n {
			<-c.Watch(tb.Context(), fmt.Sprintf("watch-%d/", i), clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		}
	}
}

func idleLock(tb testing.TB, c *etcdkit.Client) {
	_, err := c.Locks().Mutex("lock").Lock(tb.Context())
	require.NoError(tb, err)
}

func idlePeerLock(name string) func(tb testing.TB, c *clientv3.Client) {
	return func(tb testing.TB, c *clientv3.Client) {
		s, err := concurrency.NewSession(c, concurrency.WithTTL(15))
		require.NoError(tb, err)
		require.NoError(tb, concurrency.NewMutex(s, name).Lock(tb.Context()))
	}
}

func idleCandidate(tb testing.TB, c *etcdkit.Client) {
	_, err := c.Locks().Election("election").Campaign(tb.Context(), "me")
	require.NoError(tb, err)
}

func idleCache(tb testing.TB, c *etcdkit.Client) {
	opened, err := cache.Open(tb.Context(), c, "cache", kv.String())
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = opened.Close() })
}

func idleReplica(tb testing.TB, c *etcdkit.Client) {
	opened, err := cache.OpenReplica(tb.Context(), c, "replica", kv.String())
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = opened.Close() })
}

func idleConfig(tb testing.TB, c *etcdkit.Client) {
	opened, err := config.Open(tb.Context(), c, "config")
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = opened.Close() })
}

func idleRegistration(tb testing.TB, c *etcdkit.Client) {
	registry := etcdtest.Must(discovery.New(c))
	tb.Cleanup(func() { _ = registry.Close() })
	_, err := registry.Register(tb.Context(), discovery.Instance{Service: "orders", ID: "a", Host: "127.0.0.1", Port: 80})
	require.NoError(tb, err)
}

func idleView(tb testing.TB, c *etcdkit.Client) {
	registry := etcdtest.Must(discovery.New(c))
	tb.Cleanup(func() { _ = registry.Close() })
	_, err := registry.OpenService(tb.Context(), "payments")
	require.NoError(tb, err)
}

// idleFigures is what an idle part costs.
type idleFigures struct {
	name       string
	perSecond  float64 // messages to etcd
	messages   map[string]int
	goroutines int
	heap       int // bytes
}

// idleSettles is how long what opening has caused may take.
const idleSettles = 3 * time.Second

// measureIdle opens the parts, each over a client of its own, lets each settle, and counts what all
// of them send in one window.
func measureIdle(tb testing.TB, endpoints []string, settle, window time.Duration, peers bool) []idleFigures {
	tb.Helper()
	first, err := etcdkit.Open(tb.Context(), etcdkit.Config{Endpoints: endpoints}) // allocates what the process needs once
	require.NoError(tb, err)
	require.NoError(tb, first.Close())
	resources(settle)
	var out []idleFigures
	var counters []*etcdtest.RPCCounter
	for _, part := range idleParts() {
		if peers && part.peer == nil {
			continue
		}
		counter := etcdtest.Counter(tb)
		goroutines, heap := resources(0)
		if peers {
			part.peer(tb, etcdtest.NewClient(tb, endpoints, counter.Option))
		} else {
			c, err := etcdkit.Open(tb.Context(), etcdkit.Config{Endpoints: endpoints, Namespace: part.name},
				etcdkit.WithDialOptions(counter.DialOption()))
			require.NoError(tb, err)
			tb.Cleanup(func() { _ = c.Close() })
			part.open(tb, c)
		}
		after, grown := resources(settle)
		out = append(out, idleFigures{name: part.name, goroutines: after - goroutines, heap: grown - heap})
		counters = append(counters, counter)
	}
	for _, c := range counters {
		c.Reset()
	}
	began := time.Now()
	idleWait(tb, window)
	for i, c := range counters {
		out[i].messages = c.Messages()
		for _, n := range out[i].messages {
			out[i].perSecond += float64(n)
		}
		out[i].perSecond /= time.Since(began).Seconds()
	}
	return out
}

// idleWait lets time pass.
func idleWait(tb testing.TB, d time.Duration) {
	tb.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-tb.Context().Done():
	}
}

// resources is how many goroutines there are, and the size of the live heap, after some time.
func resources(after time.Duration) (goroutines, heap int) {
	time.Sleep(after)
	runtime.GC()
	runtime.GC() // what finalizers and pools have let go of
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), int(m.HeapAlloc)
}

//nolint:paralleltest // it counts goroutines
func TestIdle_ClientsSendNextToNothing(t *testing.T) {
	cluster := etcdtest.StartCluster(t, 3)
	parts := idleParts()
	for _, f := range measureIdle(t, cluster.Endpoints(), idleSettles, time.Minute, false) {
		i := slices.IndexFunc(parts, func(p idlePart) bool { return p.name == f.name })
		t.Logf("%-12s %.2f messages/s, %d goroutines, %d KiB, %v", f.name, f.perSecond, f.goroutines, f.heap>>10, f.messages)
		assert.LessOrEqual(t, f.perSecond, float64(parts[i].most)/60+0.001, "%s: %v", f.name, f.messages)
		assert.Positive(t, f.perSecond, "%s: nothing was counted", f.name)
	}
}

// idleTable shows what parts of a program cost that have nothing to do.
func idleTable() table {
	tab := table{
		id: "idle", title: "Idle clients",
		text: "What a part of a program sends to etcd while it has nothing to do, and what it occupies, with N endpoints. Each part has a client of its own; " +
			"*Typical* is a program with a config, a cache, a registration, a view and a candidate. Messages are those of one window in which all parts were idle. " +
			"Heap is by how much the heap of the process grew when the part was opened. It may be up to 60 KiB too small, since other parts free memory meanwhile.",
		columns: []column{
			{"messages/s", both("messages/s")}, {"goroutines", both("goroutines")}, {"heap", both("heap")},
		},
	}
	for _, members := range []int{1, 3} {
		turn := func(m *meter) {
			window := size(m, time.Second, 20*time.Second, 150*time.Second)
			for _, f := range measureIdle(m, m.cluster(members).Endpoints(), size(m, time.Second, idleSettles, idleSettles), window, !m.ours) {
				row := m.in(f.name, members)
				row.record("messages/s", f.perSecond)
				row.record("goroutines", float64(f.goroutines))
				row.record("heap", float64(f.heap))
			}
		}
		s := scenario{name: "idle", n: members, rounds: 1, ours: turn, theirs: turn, fullOnly: members > 1}
		if members == 1 {
			s.counts = []string{"goroutines"}
		}
		tab.scenarios = append(tab.scenarios, s)
	}
	return tab
}
