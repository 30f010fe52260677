package discovery_test

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// checkDuration checks how long something took, if ETCDKIT_LONG is set.
func checkDuration(t *testing.T, took, limit time.Duration) {
	t.Helper()
	if isLongRun() {
		assert.Less(t, took, limit)
	}
}

// fleet is instances of one service, spread over clients.
type fleet struct {
	regs  []*discovery.Registration
	views []*discovery.Service // one for each client
	conns []*fakeConn          // likewise
	empty atomic.Int64         // how often a view had nothing to tell once it had had everything
	least atomic.Int64         // the fewest that a view told of after that
}

// registerFleet registers n instances from several clients of a server, and waits until each client
// sees them all.
func registerFleet(t *testing.T, srv *etcdtest.Server, clients, n int, ttl time.Duration) *fleet {
	t.Helper()
	f := &fleet{}
	f.least.Store(int64(n))
	registries := make([]*discovery.Registry, clients)
	for c := range clients {
		registries[c], _ = newRegistry(t, srv.Client(t, parttest.Harden), "app", discovery.WithTTL(ttl))
	}
	f.regs = make([]*discovery.Registration, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			reg, err := registries[i%clients].Register(withTestTimeout(t), newInstance("orders", fmt.Sprintf("%03d", i)))
			if assert.NoError(t, err) {
				f.regs[i] = reg
			}
		})
	}
	wg.Wait()
	require.False(t, t.Failed())
	for _, r := range registries {
		s := view(t, r, "orders")
		parttest.Eventually(t, func() bool { return len(s.Instances()) == n })
		f.views = append(f.views, s)
		conn, _ := resolve(t, r, "orders")
		parttest.Eventually(t, func() bool { return len(conn.states.All()) > 0 })
		f.conns = append(f.conns, conn)
		s.Follow(func(list []discovery.Instance) {
			if len(list) == 0 {
				f.empty.Add(1)
			}
			for least := f.least.Load(); int64(len(list)) < least && !f.least.CompareAndSwap(least, int64(len(list))); {
				least = f.least.Load()
			}
		})
	}
	return f
}

// registered is how many of them say that they are.
func (f *fleet) registered() (n int) {
	for _, reg := range f.regs {
		if reg.State() == discovery.Registered {
			n++
		}
	}
	return n
}

// waitUntilRegistered waits until all are in etcd again, each once, and returns how long that took.
func (f *fleet) waitUntilRegistered(t *testing.T, srv *etcdtest.Server, began time.Time) time.Duration {
	t.Helper()
	cli := srv.Client(t)
	prefix := "app/services/orders/instances/"
	parttest.Eventually(t, func() bool { return len(keyLeases(t, cli, prefix)) == len(f.regs) },
		"not all of %d are back", len(f.regs))
	took := time.Since(began)
	for key, lease := range keyLeases(t, cli, prefix) {
		assert.NotZero(t, lease, key)
	}
	return took
}

func TestRegistration_ComesBackAfterOutage(t *testing.T) {
	t.Parallel()
	clients, n := shortOrLong(4, 8), shortOrLong(60, 200)
	ttl, outage := time.Duration(shortOrLong(3, 30))*time.Second, time.Duration(shortOrLong(5, 60))*time.Second
	srv := etcdtest.Start(t)
	f := registerFleet(t, srv, clients, n, ttl)
	for _, again := range []string{"on the same data", "on empty data"} {
		srv.Kill()
		down := time.NewTimer(outage)
		<-down.C
		for _, s := range f.views {
			assert.Len(t, s.Instances(), n, "the last set is kept")
			assert.Greater(t, s.Age(), outage/2, "and says how old it is")
			assert.False(t, s.Stats().Live)
			require.Error(t, s.Err())
		}
		if again == "on empty data" {
			srv.Wipe()
		} else {
			srv.Restart()
		}
		back := time.Now()
		took := f.waitUntilRegistered(t, srv, back)
		parttest.Eventually(t, func() bool { return f.registered() == n }, "they know that they are back")
		t.Logf("%s: %d instances of %d clients registered %v after etcd was back from %v", again, n, clients, took, outage)
		checkDuration(t, took, 5*time.Second)
		for _, s := range f.views {
			parttest.Eventually(t, func() bool { return s.Stats().Live && s.Age() < 3*time.Second && s.Stats().Held == 0 })
			assert.Len(t, s.Instances(), n)
		}
	}
	assert.Zero(t, f.empty.Load(), "no view was ever empty")
	t.Logf("no view told of fewer than %d", f.least.Load())
	assert.GreaterOrEqual(t, f.least.Load(), int64(n/2), "what is lost before it could be registered anew is held back")
	for _, conn := range f.conns {
		for _, addrs := range conn.addrs() {
			assert.GreaterOrEqual(t, len(addrs), n/2, "gRPC always has somewhere to go")
		}
	}
	for _, reg := range f.regs {
		require.NoError(t, reg.Close())
	}
	assert.Empty(t, keyLeases(t, srv.Client(t), "app/"), "whatever was repeated left nothing behind")
}

func TestRegistration_ComesBackAfterPartition(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	r, _ := newRegistry(t, etcdtest.NewClient(t, proxy.Endpoints(), parttest.Harden), "app", discovery.WithTTL(2*time.Second))
	watcher, p := newRegistry(t, srv.Client(t, parttest.Harden), "app")
	reg := register(t, r, newInstance("orders", "a"))
	s := view(t, watcher, "orders")
	var worst time.Duration
	for range shortOrLong(3, 50) {
		proxy.Blackhole(true, true)
		waitForInstances(t, s)
		parttest.Eventually(t, func() bool { return reg.State() == discovery.Suspended })
		proxy.Heal()
		healed := time.Now()
		waitForInstances(t, s, "a")
		worst = max(worst, time.Since(healed))
		parttest.Eventually(t, func() bool { return reg.State() == discovery.Registered })
		assert.Len(t, keyLeases(t, p.Raw, "app/"), 1)
	}
	t.Logf("present %v after the heal, at worst", worst)
	checkDuration(t, worst, 2*time.Second)
}

func TestRegistration_LateProcessLeavesSuccessorAlone(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	old, _ := newRegistry(t, etcdtest.NewClient(t, proxy.Endpoints(), parttest.Harden), "app", discovery.WithTTL(2*time.Second))
	young, p := newRegistry(t, srv.Client(t, parttest.Harden), "app", discovery.WithTTL(2*time.Second))
	for n := range shortOrLong(2, 20) {
		first := register(t, old, newInstance("orders", "a"))
		proxy.Blackhole(true, true)
		elsewhere := newInstance("orders", "a")
		elsewhere.Host = "10.0.0.2"
		second := register(t, young, elsewhere)
		proxy.Heal()
		// It shuts down as soon as it is back, or when it knows that it has lost its place.
		if n%2 == 0 {
			parttest.Eventually(t, func() bool { _, err := old.Services(withTestTimeout(t)); return err == nil })
			assert.Equal(t, discovery.Suspended, first.State())
			require.ErrorIs(t, first.Update(withTestTimeout(t), newInstance("orders", "a")), discovery.ErrTaken)
		}
		require.NoError(t, first.Close())
		assert.Equal(t, discovery.Registered, second.State())
		assert.Len(t, keyLeases(t, p.Raw, "app/"), 1)
		require.NoError(t, second.Close())
		assert.Empty(t, keyLeases(t, p.Raw, "app/"))
	}
}

func TestRegistration_RestoresDeletedOrOverwrittenKey(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t))
	reg := register(t, r, newInstance("orders", "a"))
	s := view(t, r, "orders")
	key := p.Dir + "services/orders/instances/a"
	for range shortOrLong(3, 20) {
		_, err := p.Raw.Delete(t.Context(), key)
		require.NoError(t, err)
		parttest.Eventually(t, func() bool { return len(keyLeases(t, p.Raw, key)) == 1 && reg.State() == discovery.Registered })
		put(t, p, "services/orders/instances/a", `{"host":"other","port":1}`)
		parttest.Eventually(t, func() bool {
			l := s.Instances()
			return len(l) == 1 && l[0].Host == "10.0.0.1" && keyLeases(t, p.Raw, key)[key] != 0
		})
	}
}

func TestView_ConvergesAfterCompaction(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	direct, _ := newRegistry(t, srv.Client(t, parttest.Harden), "app")
	r, _ := newRegistry(t, etcdtest.NewClient(t, proxy.Endpoints(), parttest.Harden), "app")
	s := view(t, r, "orders")
	numbered := func(n int) discovery.Instance {
		i := newInstance("orders", strconv.Itoa(n))
		i.Port = n + 1
		return i
	}
	one := register(t, direct, numbered(0))
	waitForInstances(t, s, "0")
	conn, _ := resolve(t, r, "orders")
	goesTo := func(port int) func() bool {
		return func() bool {
			all := conn.addrs()
			return len(all) > 0 && slices.Equal(all[len(all)-1], []string{"10.0.0.1:" + strconv.Itoa(port)})
		}
	}
	parttest.Eventually(t, goesTo(1))
	var worst time.Duration
	for n := range shortOrLong(3, 50) {
		proxy.Refuse()
		proxy.Cut()
		require.NoError(t, one.Close())
		one = register(t, direct, numbered(n+1))
		srv.Compact(0)
		assert.Equal(t, []string{strconv.Itoa(n)}, instanceIDs(s.Instances()))
		proxy.Heal()
		healed := time.Now()
		waitForInstances(t, s, strconv.Itoa(n+1))
		parttest.Eventually(t, goesTo(n+2), "gRPC is told, too")
		worst = max(worst, time.Since(healed))
		assert.Zero(t, s.Stats().Held, "what was replaced is not held back")
		// A change on the new stream: the next outage is another one, not the same that goes on.
		i := one.Instance()
		i.Port += 1000
		require.NoError(t, one.Update(withTestTimeout(t), i))
		parttest.Eventually(t, goesTo(i.Port))
	}
	t.Logf("converged %v after the heal, at worst", worst)
	checkDuration(t, worst, 2*time.Second)
}

func TestView_SeesGracefulClose(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	mine, _ := newProcess(t, dir)
	const views = 5
	var all [views]*discovery.Service
	for n := range views {
		r, _ := newProcess(t, dir)
		all[n] = view(t, r, "orders")
	}
	var worst time.Duration
	for range shortOrLong(10, 100) {
		reg := register(t, mine, newInstance("orders", "a"))
		for _, s := range all {
			waitForInstances(t, s, "a")
		}
		require.NoError(t, reg.Close())
		closed := time.Now()
		for _, s := range all {
			for len(s.Instances()) > 0 && time.Since(closed) < parttest.Timeout {
				time.Sleep(100 * time.Microsecond) // a finer look than shows takes
			}
			assert.Empty(t, s.Instances())
		}
		worst = max(worst, time.Since(closed))
	}
	t.Logf("gone from %d views %v after Close, at worst", views, worst)
	checkDuration(t, worst, 100*time.Millisecond)
}
