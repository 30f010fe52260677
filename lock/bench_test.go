package lock_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

// mutex is one way to lock and unlock a name.
type mutex func(tb testing.TB, cli *clientv3.Client, dir string) func(ctx context.Context) (release func(context.Context) error, err error)

// ours makes a mutex of each locker; the waiters of one client share it.
func ours() mutex {
	lockers := map[*clientv3.Client]func(context.Context) (func(context.Context) error, error){}
	return func(tb testing.TB, cli *clientv3.Client, dir string) func(context.Context) (func(context.Context) error, error) {
		if f := lockers[cli]; f != nil {
			return f
		}
		l, _ := lockerOver(tb, cli, dir)
		lockers[cli] = taking(l.Mutex("m"))
		return lockers[cli]
	}
}

// apart makes a locker for each waiter, each with keys of its own; those of one client share its watch.
func apart() mutex {
	shared := map[*clientv3.Client]*parts{}
	return func(tb testing.TB, cli *clientv3.Client, dir string) func(context.Context) (func(context.Context) error, error) {
		if shared[cli] == nil {
			shared[cli] = newParts(tb, cli, dir)
		}
		l := lock.New(shared[cli])
		tb.Cleanup(func() { _ = l.Close() })
		return taking(l.Mutex("m"))
	}
}

func taking(m *lock.Mutex) func(context.Context) (func(context.Context) error, error) {
	return func(ctx context.Context) (func(context.Context) error, error) {
		h, err := m.Lock(ctx)
		if err != nil {
			return nil, err
		}
		return h.Release, nil
	}
}

// theirs makes a mutex and a session of client/v3 for each waiter: two of one session do not exclude each other.
func theirs() mutex {
	return func(tb testing.TB, cli *clientv3.Client, dir string) func(context.Context) (func(context.Context) error, error) {
		m := concurrency.NewMutex(theirSession(tb, cli), dir+"locks/m")
		return func(ctx context.Context) (func(context.Context) error, error) {
			if err := m.Lock(ctx); err != nil {
				return nil, err
			}
			return m.Unlock, nil
		}
	}
}

func kinds() map[string]func() mutex {
	return map[string]func() mutex{"lock": ours, "concurrency": theirs}
}

// hardened is a client as etcdkit opens it.
func hardened(tb testing.TB) *clientv3.Client {
	tb.Helper()
	return etcdtest.Client(tb, harden)
}

func BenchmarkMutexUncontended(b *testing.B) {
	for name, kind := range kinds() {
		b.Run(name, func(b *testing.B) {
			take := kind()(b, hardened(b), etcdtest.Prefix(b))
			b.ReportAllocs()
			for b.Loop() {
				release, err := take(b.Context())
				require.NoError(b, err)
				require.NoError(b, release(b.Context()))
			}
		})
	}
}

func BenchmarkElectionUncontended(b *testing.B) {
	b.Run("lock", func(b *testing.B) {
		l, _ := lockerOver(b, hardened(b), etcdtest.Prefix(b))
		e := l.Election("e")
		b.ReportAllocs()
		for b.Loop() {
			led, err := e.Campaign(b.Context(), "me")
			require.NoError(b, err)
			require.NoError(b, led.Release(b.Context()))
		}
	})
	b.Run("concurrency", func(b *testing.B) {
		e := concurrency.NewElection(theirSession(b, etcdtest.Client(b)), etcdtest.Prefix(b)+"e")
		b.ReportAllocs()
		for b.Loop() {
			require.NoError(b, e.Campaign(b.Context(), "me"))
			require.NoError(b, e.Resign(b.Context()))
		}
	})
}

// handOffs measures from the moment at which a release begins to that at which the next holder has the lock.
type handOffs struct {
	mu      sync.Mutex
	left    time.Time
	samples []time.Duration
}

func (h *handOffs) arrive(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.left.IsZero() {
		h.samples = append(h.samples, now.Sub(h.left))
	}
}

func (h *handOffs) leave(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = now
}

func (h *handOffs) report(b *testing.B) {
	slices.Sort(h.samples)
	at := func(q float64) float64 {
		return float64(h.samples[int(q*float64(len(h.samples)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
}

// BenchmarkMutexContended is that of so many waiters over four clients, each of whom locks again at once. One operation
// is one acquisition and release. "lock" has the goroutines of a client take turns; "lock-apart" has each waiter on its
// own, as "concurrency" has.
func BenchmarkMutexContended(b *testing.B) {
	all := kinds()
	all["lock-apart"] = apart
	for _, waiters := range []int{2, 16, 64} {
		for name, kind := range all {
			b.Run(fmt.Sprintf("%d/%s", waiters, name), func(b *testing.B) { contended(b, waiters, kind()) })
		}
	}
}

func contended(b *testing.B, waiters int, m mutex) {
	b.Helper()
	const clients = 4
	dir := etcdtest.Prefix(b)
	count := etcdtest.Counter(b)
	takers := make([]func(context.Context) (func(context.Context) error, error), waiters)
	var clis []*clientv3.Client
	for range min(clients, waiters) {
		clis = append(clis, count.Client(b))
	}
	for i := range takers {
		takers[i] = m(b, clis[i%len(clis)], dir)
	}
	hand := &handOffs{}
	round := func(each int) {
		var wg sync.WaitGroup
		for _, take := range takers {
			wg.Go(func() {
				for range each {
					release, err := take(b.Context())
					if err != nil {
						b.Error(err)
						return
					}
					hand.arrive(time.Now())
					hand.leave(time.Now())
					if err := release(b.Context()); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	round(2) // opens what is opened once
	count.Reset()
	hand.samples, hand.left = nil, time.Time{}
	each, total := max(1, 128/waiters), 0
	for b.Loop() {
		round(each)
		total += each * waiters
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(total), "ms/lock")
	unary := count.Count("KV/Txn") + count.Count("KV/Range") + count.Count("KV/DeleteRange") + count.Count("KV/Put")
	b.ReportMetric(float64(unary)/float64(total), "rpcs/lock")
	hand.report(b)
}

// BenchmarkMutexSeparateClients has so many waiters, each in a client of its own, as processes of a fleet are. In "pass" all of them
// wait, and each is granted once; one operation is such a pass. In "loop" each locks again at once.
func BenchmarkMutexSeparateClients(b *testing.B) {
	for _, waiters := range []int{2, 10, 50, 200} {
		for name, kind := range kinds() {
			b.Run(fmt.Sprintf("pass/%d/%s", waiters, name), func(b *testing.B) { separate(b, waiters, 1, true, kind()) })
			b.Run(fmt.Sprintf("loop/%d/%s", waiters, name), func(b *testing.B) { separate(b, waiters, max(2, 200/waiters), false, kind()) })
		}
	}
}

func separate(b *testing.B, waiters, each int, queueFirst bool, m mutex) {
	b.Helper()
	s := etcdtest.Start(b)
	count := etcdtest.Counter(b)
	dir := "d/"
	admin := s.Client(b)
	takers := make([]func(context.Context) (func(context.Context) error, error), waiters)
	for i := range takers {
		takers[i] = m(b, s.Client(b, harden, count.Option), dir)
	}
	first := m(b, s.Client(b), dir)
	pass := func() time.Duration {
		began := time.Now()
		release := func(context.Context) error { return nil }
		if queueFirst {
			var err error
			release, err = first(b.Context())
			require.NoError(b, err)
		}
		var wg sync.WaitGroup
		for _, take := range takers {
			wg.Go(func() {
				for range each {
					release, err := take(b.Context())
					if err != nil {
						b.Error(err)
						return
					}
					if err := release(b.Context()); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		if queueFirst {
			for int(count64(b, admin, dir+"locks/m/")) <= waiters {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(100 * time.Millisecond) // until all of them watch
			began = time.Now()
		}
		require.NoError(b, release(b.Context()))
		wg.Wait()
		return time.Since(began)
	}
	pass() // opens what is opened once
	count.Reset()
	events := s.Metric("etcd_debugging_mvcc_events_total")
	var spent time.Duration
	total := 0
	for b.Loop() {
		spent += pass()
		total += waiters * each
	}
	b.ReportMetric(float64(spent.Microseconds())/1000/float64(total), "ms/lock")
	unary := count.Count("KV/Txn") + count.Count("KV/Range") + count.Count("KV/DeleteRange") + count.Count("KV/Put")
	b.ReportMetric(float64(unary)/float64(total), "rpcs/lock")
	b.ReportMetric((s.Metric("etcd_debugging_mvcc_events_total")-events)/float64(total), "events/lock")
}

func count64(b *testing.B, cli *clientv3.Client, prefix string) int64 {
	b.Helper()
	r, err := cli.Get(b.Context(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	require.NoError(b, err)
	return r.Count
}
