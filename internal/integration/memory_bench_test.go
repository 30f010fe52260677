package integration_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// memoryTable is about reads that etcd is not asked for.
func memoryTable() table {
	return table{
		id: "memory", title: "Reads from memory",
		text: "N goroutines read all the time. The peer of *cache hit* is golang-lru's Get of the same 10,000 keys, that of *cached key* a Get of " +
			"client/v3. *Change of a view*: of 10,000 instances of a service 100 change each second; the peer is a watch of client/v3 whose events are " +
			"decoded into a map. Its figures are for one change, and include the put.",
		columns: standardColumns(),
		scenarios: []scenario{
			cachedKey(), cacheHit(1), cacheHit(16), pick(), view(),
		},
	}
}

// cachedKey reads one key that does not change.
func cachedKey() scenario {
	s := bothSides("cached key", 1, func(m *meter) {
		c, cli := m.open(), m.client()
		_, err := cli.Put(m.Context(), "dir/one", "value")
		require.NoError(m, err)
		cached, err := cache.Open(m.Context(), c, "dir", kv.String())
		require.NoError(m, err)
		m.Cleanup(func() { assert.NoError(m, cached.Close()) })
		_, err = cached.Get(m.Context(), "one")
		require.NoError(m, err)
		peer := m.peer()
		m.measure(func() int {
			return repeat(m, size(m, 1000, 1_000_000, 5_000_000), func() { _, _ = cached.Get(m.Context(), "one") })
		})
		peer.measure(func() int {
			return repeat(m, size(m, 100, 1000, 5000), func() { _, err := cli.Get(m.Context(), "dir/one"); require.NoError(m, err) })
		})
	})
	s.counts = []string{"rpcs"}
	return s
}

func repeat(m *meter, n int, f func()) int {
	m.Helper()
	for range n {
		f()
	}
	return n
}

// cacheHit reads 10,000 keys in turn.
func cacheHit(goroutines int) scenario {
	return bothSides("cache hit", goroutines, func(m *meter) {
		const keys = 10_000
		c := m.open()
		names := make([]string, keys)
		ops := make([]kv.Op, keys)
		for i := range names {
			names[i] = fmt.Sprintf("%08d", i)
			ops[i] = kv.OpPut("dir/"+names[i], []byte("value"))
		}
		_, err := c.KV().Batch(m.Context(), ops...)
		require.NoError(m, err)
		cached, err := cache.Open(m.Context(), c, "dir", kv.String(), cache.WithMaxEntries(keys))
		require.NoError(m, err)
		m.Cleanup(func() { assert.NoError(m, cached.Close()) })
		plain, err := lru.New[string, kv.Entry[string]](keys)
		require.NoError(m, err)
		parallel(m, 64, keys, func(i int) error {
			e, err := cached.Get(m.Context(), names[i])
			plain.Add(names[i], e)
			return err
		})
		ctx, each := m.Context(), size(m, 1000, 2_000_000, 10_000_000)/goroutines
		crowd := func(get func(name string)) func() int {
			return func() int {
				var wg sync.WaitGroup
				for g := range goroutines {
					wg.Go(func() {
						for i := range each {
							get(names[(i+g*7919)%keys])
						}
					})
				}
				wg.Wait()
				return goroutines * each
			}
		}
		peer := m.peer()
		m.measure(crowd(func(name string) { _, _ = cached.Get(ctx, name) }))
		peer.measure(crowd(func(name string) { _, _ = plain.Get(name) }))
	})
}

// instance is what is stored for an instance of a service.
func instance(i, port int) (key, value string) {
	return fmt.Sprintf("services/s/instances/%05d", i), fmt.Sprintf(`{"host":"10.0.0.1","port":%d}`, port)
}

// openService opens a view of the service of [instance].
func openService(m *meter) *discovery.Service {
	m.Helper()
	registry := etcdtest.Must(discovery.New(m.open()))
	m.Cleanup(func() { assert.NoError(m, registry.Close()) })
	service, err := registry.OpenService(m.Context(), "s")
	require.NoError(m, err)
	return service
}

func putInstances(m *meter, n int) {
	m.Helper()
	c := m.open()
	ops := make([]kv.Op, n)
	for i := range ops {
		key, value := instance(i, 1)
		ops[i] = kv.OpPut(key, []byte(value))
	}
	_, err := c.KV().Batch(m.Context(), ops...)
	require.NoError(m, err)
}

// pick picks one of 10 instances.
func pick() scenario {
	return scenario{name: "pick of 10 instances", ours: func(m *meter) {
		putInstances(m, 10)
		picker := openService(m).Picker(discovery.RoundRobin())
		m.measure(func() int {
			return repeat(m, size(m, 1000, 1_000_000, 5_000_000), func() {
				p, err := picker.Pick()
				if err != nil {
					m.Error(err)
				}
				p.Done(nil)
			})
		})
	}}
}

// view follows a large service that changes.
func view() scenario {
	const instances, interval = 10_000, 10 * time.Millisecond
	turn := func(m *meter) {
		n := size(m, 1000, instances, instances)
		putInstances(m, n)
		follow := followTheirs
		if m.ours {
			follow = followOurs
		}
		seen, writer := follow(m, n), m.server().Client(m)
		changes := size(m, 20, 100, 500)
		before := seen()
		m.paced = true
		m.measure(func() int {
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for i := range changes {
				<-tick.C
				key, value := instance(i*7919%n, 2+i)
				_, err := writer.Put(m.Context(), key, value)
				require.NoError(m, err)
			}
			for seen() < before+changes {
				<-tick.C
			}
			return changes
		})
	}
	return scenario{name: "change of a view of 10,000 instances", ours: turn, theirs: turn}
}

// followOurs opens a view, from which an instance is picked for each change, and returns how many
// changes it has seen.
func followOurs(m *meter, n int) func() int {
	m.Helper()
	service := openService(m)
	require.Len(m, service.Instances(), n)
	picker := service.Picker(discovery.RoundRobin())
	return func() int {
		if p, err := picker.Pick(); assert.NoError(m, err) {
			p.Done(nil)
		}
		return int(service.Stats().Updates)
	}
}

// followTheirs has the events of a watch decoded into a map, and returns how many there were.
func followTheirs(m *meter, n int) func() int {
	m.Helper()
	var mu sync.RWMutex
	known := make(map[string]discovery.Instance, n)
	seen := 0
	subscribeTheirs(m, m.client(), "services/s/", 0, func(events []*clientv3.Event) {
		for _, e := range events {
			var i discovery.Instance
			if err := json.Unmarshal(e.Kv.Value, &i); err != nil {
				m.Error(err)
			}
			mu.Lock()
			known[string(e.Kv.Key)] = i
			seen++
			mu.Unlock()
		}
	})
	return func() int {
		mu.RLock()
		defer mu.RUnlock()
		return seen
	}
}
