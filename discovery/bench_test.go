package discovery_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

// BenchmarkPick picks and is done, with each policy.
func BenchmarkPick(b *testing.B) {
	for _, n := range []int{10, 1000} {
		for name, policy := range policies() {
			b.Run(fmt.Sprintf("%s/n=%d", name, n), func(b *testing.B) {
				s, _ := newServiceOf(b, n, nil)
				p := s.Picker(policy)
				b.ReportAllocs()
				for b.Loop() {
					k, err := p.PickFor("user/42")
					if err != nil {
						b.Fatal(err)
					}
					k.Done(nil)
				}
			})
		}
	}
}

// BenchmarkViewChange changes one of many instances in a view, and picks from it.
func BenchmarkViewChange(b *testing.B) {
	const n = 10_000
	for name, picks := range map[string]int{"alone": 0, "and a pick": 1} {
		b.Run(name, func(b *testing.B) {
			s, apply := discovery.NewView("s")
			picker := s.Picker(discovery.RoundRobin())
			put := func(i, port int) watch.Event {
				return watch.Event{
					Type: watch.Put, Key: fmt.Sprintf("services/s/instances/%05d", i),
					Value: fmt.Appendf(nil, `{"host":"10.0.0.1","port":%d}`, port),
				}
			}
			var all []watch.Event
			for i := range n {
				all = append(all, put(i, 1))
			}
			apply(watch.Batch{Events: all, Revision: 1})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				apply(watch.Batch{Events: []watch.Event{put(i*7919%n, 1+i%60000)}, Revision: int64(i + 2)})
				for range picks {
					k, err := picker.Pick()
					require.NoError(b, err)
					k.Done(nil)
				}
			}
		})
	}
}

// BenchmarkFanOut tells 1,000 views of a change, in one process: an op is one change, seen by all.
// Beside it, 1,000 watches of client/v3.
func BenchmarkFanOut(b *testing.B) {
	const views = 1000
	b.Run("etcdkit", func(b *testing.B) {
		r, p := newProcess(b, etcdtest.Prefix(b))
		var seen atomic.Int64
		all := make(chan struct{}, 1)
		var last atomic.Int64
		for range views {
			view(b, r, "s").Follow(func(list []discovery.Instance) {
				if len(list) > 0 && int64(list[0].Port) == last.Load() && seen.Add(1) == views {
					all <- struct{}{}
				}
			})
		}
		require.Equal(b, 1, p.Watcher().Stats().ServerWatches)
		b.ReportAllocs()
		for n := int64(0); b.Loop(); n = (n + 1) % 60000 {
			seen.Store(0)
			last.Store(n + 1)
			put(b, p, "services/s/instances/a", fmt.Sprintf(`{"host":"h","port":%d}`, n+1))
			<-all
		}
		b.ReportMetric(float64(p.Watcher().Stats().ServerWatches), "server-watches")
	})
	b.Run("client", func(b *testing.B) {
		cli, dir := etcdtest.Client(b), etcdtest.Prefix(b)
		var seen atomic.Int64
		all := make(chan struct{}, 1)
		var open sync.WaitGroup
		for range views {
			open.Add(1)
			ch := cli.Watch(b.Context(), dir, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
			go func() {
				for resp := range ch {
					if resp.Created {
						open.Done()
						continue
					}
					if seen.Add(1)%views == 0 {
						all <- struct{}{}
					}
				}
			}()
		}
		open.Wait()
		b.ReportAllocs()
		for b.Loop() {
			_, err := cli.Put(b.Context(), dir+"a", `{"host":"h","port":1}`)
			require.NoError(b, err)
			<-all
		}
		b.ReportMetric(views, "server-watches")
	})
}

// BenchmarkRegister registers and closes.
func BenchmarkRegister(b *testing.B) {
	r, _ := newProcess(b, etcdtest.Prefix(b))
	for b.Loop() {
		require.NoError(b, register(b, r, newInstance("s", "a")).Close())
	}
}
