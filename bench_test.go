package etcdkit_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// BenchmarkOpen measures Open and Close with a healthy server.
func BenchmarkOpen(b *testing.B) {
	cfg := etcdkit.Config{Endpoints: etcdtest.Endpoints()}
	for b.Loop() {
		c, err := etcdkit.Open(b.Context(), cfg)
		require.NoError(b, err)
		require.NoError(b, c.Close())
	}
}

// BenchmarkOpenRefused measures how long Open takes to return an error if three endpoints refuse
// connections.
func BenchmarkOpenRefused(b *testing.B) {
	var eps []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(b, err)
		require.NoError(b, l.Close())
		eps = append(eps, l.Addr().String())
	}
	for b.Loop() {
		_, err := etcdkit.Open(b.Context(), etcdkit.Config{Endpoints: eps})
		require.ErrorIs(b, err, etcdkit.ErrUnavailable)
	}
}

// BenchmarkClose measures Close with 50 calls in progress at a frozen server, until all of them
// have returned, and a later call.
func BenchmarkClose(b *testing.B) {
	s := etcdtest.Start(b)
	for b.Loop() {
		b.StopTimer()
		c, err := etcdkit.Open(b.Context(), etcdkit.Config{Endpoints: s.Endpoints()})
		require.NoError(b, err)
		s.Pause()
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				if i%2 == 0 {
					_, _ = c.KV().Get(b.Context(), "k")
				} else {
					_, _ = c.KV().Put(b.Context(), "k", nil)
				}
			})
		}
		time.Sleep(50 * time.Millisecond) // most have been sent
		b.StartTimer()
		require.NoError(b, c.Close())
		wg.Wait()
		b.StopTimer()
		began := time.Now()
		_, err = c.KV().Get(b.Context(), "k")
		require.ErrorIs(b, err, etcdkit.ErrClosed)
		b.ReportMetric(float64(time.Since(began).Microseconds()), "later-call-us")
		s.Resume()
		b.StartTimer()
	}
}

// BenchmarkHealthWithoutQuorum measures how long Health takes if two of three members are down.
func BenchmarkHealthWithoutQuorum(b *testing.B) {
	cluster := etcdtest.StartCluster(b, 3)
	c, err := etcdkit.Open(b.Context(), etcdkit.Config{Endpoints: cluster.Endpoints()})
	require.NoError(b, err)
	defer c.Close()
	cluster.Members[1].Kill()
	cluster.Members[2].Kill()
	for b.Loop() {
		_, err := c.Health(b.Context())
		require.ErrorContains(b, err, "no quorum")
	}
}

// BenchmarkHealth measures Health of a single healthy server.
func BenchmarkHealth(b *testing.B) {
	c, err := etcdkit.Open(b.Context(), etcdkit.Config{Endpoints: etcdtest.Endpoints()})
	require.NoError(b, err)
	defer c.Close()
	for b.Loop() {
		_, err := c.Health(b.Context())
		require.NoError(b, err)
	}
}

// BenchmarkFrozenMember freezes a member. It reports the share of reads with a deadline of one
// second that fail in the first second and in the ten after it, and the time until the member is
// evicted.
func BenchmarkFrozenMember(b *testing.B) {
	cluster := etcdtest.StartCluster(b, 3)
	for b.Loop() {
		c, err := etcdkit.Open(b.Context(), etcdkit.Config{Endpoints: cluster.Endpoints()})
		require.NoError(b, err)
		leader := cluster.Leader(b)
		frozen := cluster.Members[0]
		if frozen == leader {
			frozen = cluster.Members[1]
		}
		frozen.Pause()
		began := time.Now()
		var reads, failed, early float64
		var out time.Duration
		for time.Since(began) < 11*time.Second {
			ctx, stop := context.WithTimeout(b.Context(), time.Second)
			_, err := c.KV().Exists(ctx, "k")
			stop()
			reads++
			switch {
			case err != nil && time.Since(began) < 2*time.Second:
				early++
			case err != nil:
				failed++
			}
			if out == 0 && len(c.Stats().Evicted) > 0 {
				out = time.Since(began)
			}
		}
		frozen.Resume()
		require.NoError(b, c.Close())
		b.ReportMetric(out.Seconds(), "out-s")
		b.ReportMetric(failed/reads*100, "failed-%")
		b.ReportMetric(early, "failed-early")
		b.ReportMetric(reads, "reads")
	}
}
