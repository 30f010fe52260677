package integration_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// contender is one way to make a call, measured beside another.
type contender func(ctx context.Context) error

// measure makes n calls from each of so many goroutines. It returns the microseconds and the
// allocations per call.
func (c contender) measure(b *testing.B, goroutines, n int) (micros, allocs float64) {
	b.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range n {
				if err := c(b.Context()); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	elapsed := float64(time.Since(start).Nanoseconds()) / 1e3
	runtime.ReadMemStats(&after)
	calls := float64(goroutines * n)
	return elapsed / calls, float64(after.Mallocs-before.Mallocs) / calls
}

// compare makes calls in turns of both contenders, which is one iteration, and reports the medians
// of their times and of the ratios between them, and how many allocations a call of ours makes
// more.
func compare(b *testing.B, goroutines, calls int, peer, ours contender) {
	b.Helper()
	n := max(1, calls/goroutines)
	ours.measure(b, goroutines, max(1, n/10)) // connections and pools are warm
	peer.measure(b, goroutines, max(1, n/10))
	var ratios []float64
	var times, allocs [2][]float64
	b.ResetTimer()
	for b.Loop() {
		order := []int{0, 1}
		if len(ratios)%2 == 1 {
			order = []int{1, 0}
		}
		var took [2]float64
		for _, who := range order {
			var mallocs float64
			took[who], mallocs = []contender{peer, ours}[who].measure(b, goroutines, n)
			times[who] = append(times[who], took[who])
			allocs[who] = append(allocs[who], mallocs)
		}
		ratios = append(ratios, took[1]/took[0])
	}
	b.ReportMetric(0, "ns/op") // of both together: it says nothing
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(times[0]), "peer-us/call")
	b.ReportMetric(median(times[1]), "us/call")
	b.ReportMetric(median(allocs[0]), "peer-allocs/call")
	b.ReportMetric(median(allocs[1])-median(allocs[0]), "more-allocs/call")
}

// openClients returns a client of client/v3 and one of etcdkit, both connected to the server at the
// endpoints.
func openClients(b *testing.B, endpoints []string) (*clientv3.Client, *etcdkit.Client) {
	b.Helper()
	peer, err := clientv3.New(clientv3.Config{Endpoints: endpoints})
	require.NoError(b, err)
	b.Cleanup(func() { _ = peer.Close() })
	ours, err := etcdkit.Open(b.Context(), etcdkit.Config{Endpoints: endpoints})
	require.NoError(b, err)
	b.Cleanup(func() { _ = ours.Close() })
	return peer, ours
}

// BenchmarkRequests is Get and Put of one key, with the default timeouts, beside those of client/v3
// without any.
func BenchmarkRequests(b *testing.B) {
	for _, members := range []int{1, 3} {
		endpoints := etcdtest.StartCluster(b, members).Endpoints()
		peer, ours := openClients(b, endpoints)
		key, value := "requests/one", "a value of a usual length"
		_, err := peer.Put(b.Context(), key, value)
		require.NoError(b, err)
		for _, op := range []struct {
			name       string
			peer, ours contender
		}{
			{
				"get",
				func(ctx context.Context) error { _, err := peer.Get(ctx, key); return err },
				func(ctx context.Context) error { _, err := ours.KV().Get(ctx, key); return err },
			},
			{
				"put",
				func(ctx context.Context) error { _, err := peer.Put(ctx, key, value); return err },
				func(ctx context.Context) error { _, err := ours.KV().Put(ctx, key, []byte(value)); return err },
			},
		} {
			for _, goroutines := range []int{1, 16, 256} {
				b.Run(fmt.Sprintf("members=%d/%s/x%d", members, op.name, goroutines), func(b *testing.B) {
					compare(b, goroutines, max(500, 16*goroutines), op.peer, op.ours)
				})
			}
		}
	}
}

// BenchmarkLinearizableRead is a linearizable read of a cached key beside Get of client/v3.
func BenchmarkLinearizableRead(b *testing.B) {
	peer, ours := openClients(b, etcdtest.Start(b).Endpoints())
	_, err := peer.Put(b.Context(), "dir/one", "value")
	require.NoError(b, err)
	cached, err := cache.Open(b.Context(), ours, "dir", kv.String())
	require.NoError(b, err)
	b.Cleanup(func() { _ = cached.Close() })
	for _, goroutines := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("x%d", goroutines), func(b *testing.B) {
			compare(b, goroutines, max(500, 16*goroutines),
				func(ctx context.Context) error { _, err := peer.Get(ctx, "dir/one"); return err },
				func(ctx context.Context) error { _, err := cached.GetLinearizable(ctx, "one"); return err })
		})
	}
}

// BenchmarkOpen is Open, the first Get and Close beside New, the first Get and Close of client/v3.
func BenchmarkOpen(b *testing.B) {
	server := etcdtest.Start(b)
	_, err := server.Client(b).Put(b.Context(), "k", "value")
	require.NoError(b, err)
	endpoints := server.Endpoints()
	compare(b, 1, 10,
		func(ctx context.Context) error {
			c, err := clientv3.New(clientv3.Config{Endpoints: endpoints})
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Get(ctx, "k")
			return err
		},
		func(ctx context.Context) error {
			c, err := etcdkit.Open(ctx, etcdkit.Config{Endpoints: endpoints})
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.KV().Get(ctx, "k")
			return err
		})
}
