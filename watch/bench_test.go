package watch_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

// deliveryCounter counts deliveries, and signals when there are as many as wanted.
type deliveryCounter struct {
	n    atomic.Int64
	want int64
	all  chan struct{}
}

func (c *deliveryCounter) add(n int) {
	if c.n.Add(int64(n)) == c.want {
		c.all <- struct{}{}
	}
}

// inFlight is the number of events in a round of a fan-out.
const inFlight = 32

// BenchmarkFanOut delivers to n subscribers of one prefix. An op is one delivery; latency is that
// of a round of 32 events to the last subscriber.
func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		for _, kind := range []string{"client", "etcdkit"} {
			b.Run(fmt.Sprintf("n=%d/%s", n, kind), func(b *testing.B) {
				cli := etcdtest.Client(b)
				dir := etcdtest.Prefix(b)
				c := &deliveryCounter{all: make(chan struct{}, 1)}
				if kind == "client" {
					fanClient(b, cli, dir, n, c)
				} else {
					fanOut(b, cli, dir, n, c)
				}
				b.ReportAllocs()
				rounds := 0
				began := time.Now()
				for left := b.N; left > 0; left -= n * inFlight {
					c.n.Store(0)
					c.want = int64(n) * inFlight
					var wg sync.WaitGroup
					for i := range inFlight {
						wg.Go(func() { mustPut(b, cli, dir+strconv.Itoa(i), "v") })
					}
					<-c.all
					wg.Wait()
					rounds++
				}
				b.ReportMetric(float64(time.Since(began).Microseconds())/float64(rounds), "us/round")
				b.ReportMetric(float64(time.Since(began).Nanoseconds())/float64(rounds*n*inFlight), "ns/delivery")
			})
		}
	}
}

func fanOut(b *testing.B, cli *clientv3.Client, dir string, n int, c *deliveryCounter) {
	w := newWatcher(b, cli)
	subs := make([]*watch.Subscription, n)
	for i := range n {
		var err error
		subs[i], err = w.Subscribe(watch.Prefix(dir), func(_ context.Context, batch watch.Batch) error {
			c.add(len(batch.Events))
			return nil
		})
		require.NoError(b, err)
	}
	for _, sub := range subs {
		ready(b, sub)
	}
}

func fanClient(b *testing.B, cli *clientv3.Client, dir string, n int, c *deliveryCounter) {
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	b.Cleanup(func() { cancel(); wg.Wait() })
	for range n {
		ch := cli.Watch(ctx, dir, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		<-ch
		wg.Go(func() {
			for resp := range ch {
				c.add(len(resp.Events))
			}
		})
	}
}

// BenchmarkStuckSubscriber is a fan-out to 100, in turns without and with one more that does not
// come back. An op is a put to each; the metrics are the 99th percentiles until the last has it,
// and their ratio.
func BenchmarkStuckSubscriber(b *testing.B) {
	cli := etcdtest.Client(b)
	const receivers = 100
	put := func(stuck int) func() time.Duration {
		dir := etcdtest.Prefix(b)
		c := &deliveryCounter{all: make(chan struct{}, 1), want: receivers}
		w := newWatcher(b, cli)
		for i := range receivers + stuck {
			sub, err := w.Subscribe(watch.Prefix(dir), func(ctx context.Context, batch watch.Batch) error {
				if i >= receivers {
					<-ctx.Done()
					return ctx.Err()
				}
				c.add(len(batch.Events))
				return nil
			})
			require.NoError(b, err)
			ready(b, sub)
		}
		return func() time.Duration {
			c.n.Store(0)
			began := time.Now()
			mustPut(b, cli, dir+"k", "v")
			<-c.all
			return time.Since(began)
		}
	}
	free, stuck := put(0), put(1)
	var without, with []time.Duration
	for b.Loop() {
		without = append(without, free())
		with = append(with, stuck())
	}
	p99 := func(all []time.Duration) float64 {
		slices.Sort(all)
		return float64(all[len(all)*99/100].Microseconds())
	}
	b.ReportMetric(p99(without), "us-p99-free")
	b.ReportMetric(p99(with), "us-p99-stuck")
	b.ReportMetric(p99(with)/p99(without), "ratio")
}

// BenchmarkSnapshotStart is the time from the start to the first live event, with 200 keys under
// about 1,000 writes a second.
func BenchmarkSnapshotStart(b *testing.B) {
	cli := etcdtest.Client(b)
	dir := etcdtest.Prefix(b)
	for i := range 200 {
		mustPut(b, cli, dir+strconv.Itoa(i), "v")
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			<-tick.C
			_, _ = cli.Put(ctx, dir+strconv.Itoa(i%200), "w")
		}
	})
	b.Run("client-get-then-watch", func(b *testing.B) {
		for b.Loop() {
			got, err := cli.Get(ctx, dir, clientv3.WithPrefix())
			require.NoError(b, err)
			one, stop := context.WithCancel(ctx)
			resp := <-cli.Watch(one, dir, clientv3.WithPrefix(), clientv3.WithRev(got.Header.Revision+1))
			require.NotEmpty(b, resp.Events)
			stop()
		}
	})
	b.Run("etcdkit", func(b *testing.B) {
		w := newWatcher(b, cli)
		for b.Loop() {
			for batch, err := range w.Watch(ctx, watch.Prefix(dir), watch.WithSnapshot()) {
				require.NoError(b, err)
				if batch.Kind == watch.Live {
					break
				}
			}
		}
	})
}

// BenchmarkCatchUp is the time to catch up with 500 revisions over 2,000 keys that were missed.
func BenchmarkCatchUp(b *testing.B) {
	cli := etcdtest.Client(b)
	dir := etcdtest.Prefix(b)
	for i := range 2000 {
		mustPut(b, cli, fmt.Sprintf("%s%04d", dir, i), "v")
	}
	miss := func() (from, to int64) {
		for i := range 500 {
			to = mustPut(b, cli, fmt.Sprintf("%s%04d", dir, i*3), "w")
			if i == 0 {
				from = to
			}
		}
		return from, to
	}
	b.Run("client-replay", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			from, to := miss()
			b.StartTimer()
			one, stop := context.WithCancel(b.Context())
			for resp := range cli.Watch(one, dir, clientv3.WithPrefix(), clientv3.WithRev(from)) {
				if n := len(resp.Events); n > 0 && resp.Events[n-1].Kv.ModRevision >= to {
					break
				}
			}
			stop()
		}
	})
	b.Run("etcdkit", func(b *testing.B) {
		w := newWatcher(b, cli)
		held := make(chan chan struct{}, 1)
		reached := make(chan int64, 4096)
		sub, err := w.Subscribe(watch.Prefix(dir), func(_ context.Context, batch watch.Batch) error {
			if batch.Kind == watch.Live {
				select {
				case release := <-held:
					<-release
				default:
				}
			}
			if !batch.More {
				reached <- batch.Revision
			}
			return nil
		}, watch.WithSnapshot(), watch.WithBuffer(8))
		require.NoError(b, err)
		ready(b, sub)
		for b.Loop() {
			b.StopTimer()
			release := make(chan struct{})
			held <- release
			_, to := miss()
			require.NoError(b, reachesRevision(w, to))
			b.StartTimer()
			close(release)
			for rev := range reached {
				if rev >= to {
					break
				}
			}
		}
		require.Positive(b, w.Stats().Resyncs)
	})
}

// reachesRevision waits until the shared watch has reached a revision.
func reachesRevision(w *watch.Watcher, rev int64) error {
	for range 10000 {
		if w.ServerWatches()[0].Revision >= rev {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return context.DeadlineExceeded
}

// BenchmarkStateEvent is a put and its delivery to one consumer, with and without an index.
func BenchmarkStateEvent(b *testing.B) {
	for _, mode := range []string{"events", "state"} {
		b.Run(mode, func(b *testing.B) {
			cli := etcdtest.Client(b)
			dir := etcdtest.Prefix(b)
			var opts []watch.Option
			if mode == "state" {
				opts = append(opts, watch.WithSnapshot())
			}
			c := &deliveryCounter{all: make(chan struct{}, 1), want: 1}
			w := newWatcher(b, cli)
			sub, err := w.Subscribe(watch.Prefix(dir), func(_ context.Context, batch watch.Batch) error {
				c.add(len(batch.Events))
				return nil
			}, opts...)
			require.NoError(b, err)
			ready(b, sub)
			b.ReportAllocs()
			for b.Loop() {
				c.n.Store(0)
				mustPut(b, cli, dir+"k", "v")
				<-c.all
			}
		})
	}
}
