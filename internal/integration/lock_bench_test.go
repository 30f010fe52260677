package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

const (
	onePass     = ", one pass"
	closedLoop  = ", closed loop"
	enqueueing  = ", to enqueue"
	uncontended = ", uncontended"
	tryLock     = "TryLock of a held mutex"
	heldNames   = "a name of N held by one client"
)

// lockTable compares the time from one holder to the next, beside client/v3's concurrency package.
func lockTable() table {
	tab := table{
		id: "lock", title: "Locks and elections",
		text: "One operation is a hand-off: the lock is released, and the next in the queue has it. Each of N waiters is a client of its own, " +
			"as a process is, with a connection and a session of its own. *One pass*: all wait, and each is served once. " +
			"*Closed loop*: each locks again at once, for a while. The peer is client/v3's package `concurrency`.",
		columns: standardColumns(),
	}
	for _, n := range []int{2, 10, 50, 200, 1000} {
		for _, r := range recipes() {
			s := r.handOffs(n)
			s.fullOnly = n > 200 || r.name != "mutex" && n != 10
			tab.scenarios = append(tab.scenarios, s)
		}
	}
	for _, n := range []int{2, 16, 64} {
		tab.scenarios = append(tab.scenarios, fourClients(n))
	}
	for _, r := range recipes() {
		tab.scenarios = append(tab.scenarios, r.uncontended())
	}
	tab.scenarios = append(tab.scenarios, tryHeld(), manyNames())
	return tab
}

// acquirer acquires a lock of one client.
type acquirer func(ctx context.Context) (release func(context.Context) error, err error)

// recipe is a kind of lock: how a client of each side acquires it.
type recipe struct {
	name   string
	ours   func(c *etcdkit.Client) acquirer
	theirs func(s *concurrency.Session) acquirer
}

func recipes() []recipe {
	return []recipe{
		{
			name: "mutex",
			ours: func(c *etcdkit.Client) acquirer {
				mutex := c.Locks().Mutex("m")
				return func(ctx context.Context) (func(context.Context) error, error) {
					held, err := mutex.Lock(ctx)
					if err != nil {
						return nil, err
					}
					return held.Release, nil
				}
			},
			theirs: func(s *concurrency.Session) acquirer {
				mutex := concurrency.NewMutex(s, "locks/m")
				return func(ctx context.Context) (func(context.Context) error, error) {
					return mutex.Unlock, mutex.Lock(ctx)
				}
			},
		},
		{
			name: "election",
			ours: func(c *etcdkit.Client) acquirer {
				election := c.Locks().Election("e")
				return func(ctx context.Context) (func(context.Context) error, error) {
					leadership, err := election.Campaign(ctx, "me")
					if err != nil {
						return nil, err
					}
					return leadership.Release, nil
				}
			},
			theirs: func(s *concurrency.Session) acquirer {
				election := concurrency.NewElection(s, "elections/e")
				return func(ctx context.Context) (func(context.Context) error, error) {
					return election.Resign, election.Campaign(ctx, "me")
				}
			},
		},
	}
}

// open returns an acquirer over a client of its own, with its session.
func (r recipe) open(m *meter) acquirer {
	m.Helper()
	if m.ours {
		return r.ours(openWithSession(m))
	}
	return r.theirs(peerSession(m, m.client()))
}

func openWithSession(m *meter) *etcdkit.Client {
	m.Helper()
	c := m.open()
	_, err := c.Leases().Shared(m.Context())
	require.NoError(m, err)
	return c
}

func peerSession(m *meter, cli *clientv3.Client) *concurrency.Session {
	m.Helper()
	s, err := concurrency.NewSession(cli, concurrency.WithTTL(15))
	require.NoError(m, err)
	m.Cleanup(func() { _ = s.Close() })
	return s
}

// handOffs has n clients contend, in one pass and in a closed loop.
func (r recipe) handOffs(n int) scenario {
	turn := func(m *meter) {
		n := size(m, min(n, 10), n, n)
		queue := &lockQueue{m: m, admin: m.server().Client(m)}
		for range n {
			queue.waiters = append(queue.waiters, r.open(m))
		}
		queue.first = r.open(m)
		queue.pass(m) // opens what is opened once
		queue.quiesce()
		pass := m.in(r.name+onePass, n)
		for range size(m, 1, max(1, 4/n), max(1, 20/n)) {
			pass.measure(func() int { return queue.pass(pass) })
			pass.record("failures", float64(queue.failures.Swap(0)))
			queue.quiesce()
		}
		if m.mode == "counts" {
			return // how often a loop finds the queue empty depends on the machine
		}
		queue.loop(m.in(r.name+closedLoop, n), size(m, 0, 600*time.Millisecond, 2*time.Second))
	}
	s := scenario{
		name: r.name, n: n, ours: turn, theirs: turn,
		limits: []limit{{row: r.name + onePass, Metric: "time", Of: "ratio", Most: 1}, {row: r.name + closedLoop, Metric: "time", Of: "ratio", Most: 1}},
	}
	if n >= 50 {
		s.limits = append(s.limits, limit{row: r.name + onePass, Metric: "rpcs", Of: "ours", Most: 2.2},
			limit{row: r.name + closedLoop, Metric: "rpcs", Of: "ours", Most: 3.8})
	}
	if n == 10 {
		s.counts = []string{"rpcs", "events"}
	}
	return s
}

// lockQueue is a fleet of waiters.
type lockQueue struct {
	m       *meter
	admin   *clientv3.Client
	first   acquirer // holds until all others wait
	waiters []acquirer

	failures atomic.Int64 // calls that were repeated
}

// turn acquires the lock and releases it. A call that fails, as on a server that is overloaded, is
// repeated.
func (q *lockQueue) turn(ctx context.Context, acquire acquirer, acquired func()) error {
	var release func(context.Context) error
	err := q.repeat(ctx, func() (err error) {
		release, err = acquire(ctx)
		return err
	})
	if err != nil {
		return err
	}
	acquired()
	return q.repeat(ctx, func() error {
		if err := release(ctx); !errors.Is(err, lock.ErrReleased) { // as it does after a failure, if only the answer was lost
			return err
		}
		return nil
	})
}

func (q *lockQueue) repeat(ctx context.Context, f func() error) error {
	const most = 20
	err := f()
	for n := 1; err != nil && n < most && ctx.Err() == nil; n++ {
		q.failures.Add(1)
		err = f()
	}
	return err
}

// pass has all waiters wait, measures how long it takes to serve them, and returns their number.
func (q *lockQueue) pass(m *meter) int {
	m.Helper()
	measured := m.running
	if measured {
		m.pause()
	}
	release, err := q.first(m.Context())
	require.NoError(m, err)
	enqueue := q.m.in(m.name+enqueueing, m.n)
	before, _ := rpcTotals(q.m.rpcs)
	var wg sync.WaitGroup
	for _, take := range q.waiters {
		wg.Go(func() {
			if err := q.turn(m.Context(), take, func() {}); err != nil {
				m.Error(err)
			}
		})
	}
	q.awaitKeys(len(q.waiters) + 1)
	q.quiesce()
	if measured {
		if after, _ := rpcTotals(q.m.rpcs); m.mode != "counts" { // it depends on who comes between
			enqueue.record("rpcs", (after-before)/float64(len(q.waiters)))
		}
		m.resume()
	}
	require.NoError(m, release(m.Context()))
	wg.Wait()
	if measured {
		m.pause()
	}
	require.False(m, m.Failed())
	return len(q.waiters)
}

// awaitKeys waits until the queue has n keys. There are no others on the server.
func (q *lockQueue) awaitKeys(n int) {
	q.m.Helper()
	require.Eventually(q.m, func() bool {
		resp, err := q.admin.Get(q.m.Context(), "", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && int(resp.Count) == n
	}, time.Minute, 10*time.Millisecond)
}

// quiesce waits until no client has sent anything but renewals for 100 ms.
func (q *lockQueue) quiesce() { awaitSilence(q.m.T, q.m.rpcs) }

func awaitSilence(t *testing.T, c *etcdtest.RPCCounter) {
	t.Helper()
	sent := func() int {
		_, all := rpcTotals(c)
		return int(all) - c.Sent("Lease/LeaseKeepAlive")
	}
	for last := -1; last != sent(); {
		last = sent()
		spend(t, 100*time.Millisecond)
	}
}

// loop has all waiters lock and release, and measures for d once each of them could have had its
// turn. At the end each acquires the lock once more: a cancelled Lock of the peer may leave its key
// behind.
func (q *lockQueue) loop(m *meter, d time.Duration) {
	m.Helper()
	var handOffs atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for _, take := range q.waiters {
		wg.Go(func() {
			for !stop.Load() {
				if err := q.turn(m.Context(), take, func() { handOffs.Add(1) }); err != nil {
					m.Error(err)
					return
				}
			}
		})
	}
	require.Eventually(m, func() bool { return handOffs.Load() >= int64(len(q.waiters)) }, time.Minute, time.Millisecond)
	m.measure(func() int {
		before := handOffs.Load()
		spend(m.T, d)
		return int(handOffs.Load() - before)
	})
	stop.Store(true)
	wg.Wait()
	m.record("failures", float64(q.failures.Swap(0)))
}

// fourClients has the goroutines of four clients contend: ours take turns within a client, theirs
// need a session each.
func fourClients(n int) scenario {
	const clients = 4
	turn := func(m *meter) {
		mutex := recipes()[0]
		queue := &lockQueue{m: m, admin: m.server().Client(m)}
		for i := range min(clients, n) {
			waiters := n/clients + min(1, max(0, n%clients-i))
			if m.ours {
				take := mutex.ours(openWithSession(m))
				for range waiters {
					queue.waiters = append(queue.waiters, take)
				}
				continue
			}
			cli := m.client()
			for range waiters {
				queue.waiters = append(queue.waiters, mutex.theirs(peerSession(m, cli)))
			}
		}
		queue.loop(m, size(m, 0, 600*time.Millisecond, 2*time.Second))
	}
	most := map[int]float64{2: 0.05, 16: 0.25, 64: 0.5}[n]
	return scenario{
		name: "mutex, goroutines of 4 clients", n: n, ours: turn, theirs: turn,
		limits: []limit{{Metric: "time", Of: "ratio", Most: most}},
	}
}

// uncontended locks and releases what nobody else wants.
func (r recipe) uncontended() scenario {
	turn := func(m *meter) {
		take := r.open(m)
		once := func() {
			release, err := take(m.Context())
			require.NoError(m, err)
			require.NoError(m, release(m.Context()))
		}
		once() // opens what is opened once
		n := size(m, 100, 300, 2000)
		m.measure(func() int {
			for range n {
				once()
			}
			return n
		})
	}
	return scenario{
		name: r.name + uncontended, ours: turn, theirs: turn,
		limits: []limit{{Metric: "time", Of: "ratio", Most: 1.1}},
		counts: []string{"rpcs", "messages", "events", "allocs"},
	}
}

// tryHeld tries to acquire what another client holds.
func tryHeld() scenario {
	turn := func(m *meter) {
		recipe := recipes()[0]
		release, err := recipe.open(m)(m.Context())
		require.NoError(m, err)
		try := ourTry
		if !m.ours {
			try = theirTry
		}
		once := try(m)
		m.measure(func() int { return repeat(m, size(m, 50, 200, 1000), once) })
		require.NoError(m, release(m.Context()))
	}
	return scenario{name: tryLock, ours: turn, theirs: turn, counts: []string{"rpcs", "events"}}
}

func ourTry(m *meter) func() {
	m.Helper()
	mutex := openWithSession(m).Locks().Mutex("m")
	return func() {
		_, err := mutex.TryLock(m.Context())
		require.ErrorIs(m, err, lock.ErrLocked)
	}
}

func theirTry(m *meter) func() {
	m.Helper()
	mutex := concurrency.NewMutex(peerSession(m, m.client()), "locks/m")
	return func() { require.ErrorIs(m, mutex.TryLock(m.Context()), concurrency.ErrLocked) }
}

// manyNames has one client hold many locks.
func manyNames() scenario {
	const names = 10_000
	turn := func(m *meter) {
		n := size(m, 2000, 2000, names)
		m = m.in(m.name, n)
		lock := ourNames
		if !m.ours {
			lock = theirNames
		}
		acquire := lock(m)
		release, err := acquire(n) // opens what is opened once
		require.NoError(m, err)
		require.NoError(m, release(m.Context()))
		spend(m.T, time.Second)
		before, running := heap(), goroutines(m.T)
		held := make([]func(context.Context) error, n)
		parallel(m, 64, n, func(i int) error {
			var err error
			held[i], err = acquire(i)
			return err
		})
		awaitSilence(m.T, m.rpcs)
		spend(m.T, time.Second) // by then each hold has its watch
		awaitSilence(m.T, m.rpcs)
		m.record("heap", (heap()-before)/float64(n))
		m.record("goroutines", goroutines(m.T)-running)
		parallel(m, 64, n, func(i int) error { return held[i](m.Context()) })
	}
	return scenario{
		name: heldNames, ours: turn, theirs: turn,
		limits: []limit{{Metric: "heap", Of: "ours", Most: 1024}},
		counts: []string{"heap", "goroutines"},
	}
}

func ourNames(m *meter) func(i int) (func(context.Context) error, error) {
	m.Helper()
	c := openWithSession(m)
	return func(i int) (func(context.Context) error, error) {
		held, err := c.Locks().Mutex("m" + strconv.Itoa(i)).Lock(m.Context())
		if err != nil {
			return nil, err
		}
		return held.Release, nil
	}
}

func theirNames(m *meter) func(i int) (func(context.Context) error, error) {
	m.Helper()
	s := peerSession(m, m.client())
	return func(i int) (func(context.Context) error, error) {
		mutex := concurrency.NewMutex(s, fmt.Sprint("locks/m", i))
		return mutex.Unlock, mutex.Lock(m.Context())
	}
}

// parallel calls f for each i below n, from so many goroutines.
func parallel(tb testing.TB, goroutines, n int, f func(i int) error) {
	tb.Helper()
	var next atomic.Int64
	errs := make([]error, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || errs[g] != nil {
					return
				}
				errs[g] = f(i)
			}
		})
	}
	wg.Wait()
	require.NoError(tb, errors.Join(errs...))
}
