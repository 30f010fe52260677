package cache_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/leasing"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

// fill stores n keys below dir/ and returns their names.
func fill(tb testing.TB, s *kv.Store, n int, value []byte) []string {
	tb.Helper()
	keys := make([]string, n)
	ops := make([]kv.Op, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("%08d", i)
		ops[i] = kv.OpPut("dir/"+keys[i], value)
	}
	_, err := s.Batch(tb.Context(), ops...)
	require.NoError(tb, err)
	return keys
}

// runParallel calls f b.N times in n goroutines.
func runParallel(b *testing.B, n int, f func(i int)) {
	b.ReportAllocs()
	if n == 1 {
		i := 0
		for b.Loop() {
			f(i)
			i++
		}
		return
	}
	var next atomic.Int64
	b.SetParallelism(max(1, n/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		i := int(next.Add(1)) * 7919
		for pb.Next() {
			f(i)
			i++
		}
	})
}

// atomicMap is a map behind an atomic pointer, the cheapest lock-free read.
type (
	atomicMap struct{ atomic.Pointer[snapshot] }
	snapshot  map[string]*kv.Entry[string]
)

func (s *atomicMap) Get(_ context.Context, key string) (kv.Entry[string], error) {
	e := (*s.Load())[key]
	if e == nil {
		return kv.Entry[string]{}, kv.ErrNotFound
	}
	return *e, nil
}

// BenchmarkHit reads what is in memory: one key, and 10,000 with a zipf distribution, beside
// golang-lru and a map behind an atomic pointer.
func BenchmarkHit(b *testing.B) {
	const n = 10_000
	p := parttest.Shared(b)
	keys := fill(b, p.KV(), n, []byte("value"))
	c := openCache(b, p, "dir", kv.String(), cache.WithMaxEntries(n))
	r := openReplica(b, p, "dir", kv.String())
	plain, err := lru.New[string, kv.Entry[string]](n)
	require.NoError(b, err)
	all := snapshot{}
	for _, key := range keys {
		e, err := c.Get(b.Context(), key)
		require.NoError(b, err)
		plain.Add(key, e)
		all[key] = &e
	}
	m := &atomicMap{}
	m.Store(&all)
	z := zipfKeys(1, 1.1)
	zipf := make([]string, 1<<16)
	for i := range zipf {
		k, _ := strconv.Atoi(z())
		zipf[i] = keys[k]
	}
	ctx := b.Context()
	for _, load := range []struct {
		name string
		key  func(i int) string
	}{{"one", func(int) string { return keys[0] }}, {"zipf", func(i int) string { return zipf[i&(1<<16-1)] }}} {
		for _, g := range []int{1, 2, 16} {
			name := fmt.Sprintf("%s/x%d/", load.name, g)
			b.Run(name+"golang-lru", func(b *testing.B) {
				runParallel(b, g, func(i int) { _, _ = plain.Get(load.key(i)) })
			})
			for _, one := range []struct {
				name string
				cache.Reader[string]
			}{{"cache", c}, {"map", m}, {"replica", r}} {
				b.Run(name+one.name, func(b *testing.B) {
					runParallel(b, g, func(i int) { _, _ = one.Get(ctx, load.key(i)) })
				})
			}
		}
	}
}

// BenchmarkRead reads one key that does not change.
func BenchmarkRead(b *testing.B) {
	cli, dir := etcdtest.Client(b), etcdtest.Prefix(b)
	p := parttest.New(b, cli, dir)
	fill(b, p.KV(), 1, []byte("value"))
	key := "00000000"
	ctx := b.Context()
	b.Run("raw", func(b *testing.B) {
		runParallel(b, 1, func(int) { _, err := cli.Get(ctx, dir+"dir/"+key); require.NoError(b, err) })
	})
	b.Run("leasing", func(b *testing.B) {
		lkv, stop, err := leasing.NewKV(etcdtest.Client(b), dir+"leases/")
		require.NoError(b, err)
		defer stop()
		_, err = lkv.Get(ctx, dir+"dir/"+key)
		require.NoError(b, err)
		runParallel(b, 1, func(int) { _, _ = lkv.Get(ctx, dir+"dir/"+key) })
	})
	b.Run("cache", func(b *testing.B) {
		c := openCache(b, p, "dir", kv.String())
		_, err := c.Get(ctx, key)
		require.NoError(b, err)
		runParallel(b, 1, func(int) { _, _ = c.Get(ctx, key) })
	})
	b.Run("replica", func(b *testing.B) {
		r := openReplica(b, p, "dir", kv.String())
		runParallel(b, 1, func(int) { _, _ = r.Get(ctx, key) })
	})
}

// BenchmarkLinearizable reads linearizably, in 1 and in 256 goroutines.
func BenchmarkLinearizable(b *testing.B) {
	cli, dir := etcdtest.Client(b), etcdtest.Prefix(b)
	p := parttest.New(b, cli, dir)
	keys := fill(b, p.KV(), 100, []byte("value"))
	c := openCache(b, p, "dir", kv.String())
	r := openReplica(b, p, "dir", kv.String())
	ctx := b.Context()
	for _, key := range keys {
		_, err := c.Get(ctx, key)
		require.NoError(b, err)
	}
	for _, g := range []int{1, 256} {
		for _, kind := range []struct {
			name string
			get  func(key string) error
		}{
			{"raw", func(key string) error { _, err := cli.Get(ctx, dir+"dir/"+key); return err }},
			{"cache", func(key string) error { _, err := c.GetLinearizable(ctx, key); return err }},
			{"replica", func(key string) error { _, err := r.GetLinearizable(ctx, key); return err }},
		} {
			b.Run(fmt.Sprintf("x%d/%s", g, kind.name), func(b *testing.B) {
				runParallel(b, g, func(i int) {
					if err := kind.get(keys[i%len(keys)]); err != nil {
						b.Error(err)
					}
				})
			})
		}
	}
}

// document is 950 bytes of JSON or so.
type document struct {
	ID, Owner string
	Tags      map[string]string
	Parts     []struct {
		Name string
		Size int
	}
}

// BenchmarkDecoded compares a hit, whose value is decoded, with decoding the bytes.
func BenchmarkDecoded(b *testing.B) {
	d := document{ID: "42", Owner: "ada", Tags: map[string]string{}}
	for i := range 15 {
		d.Tags["tag-"+strconv.Itoa(i)] = strings.Repeat("x", 20)
	}
	for i := range 5 {
		d.Parts = append(d.Parts, struct {
			Name string
			Size int
		}{"part-" + strconv.Itoa(i), i})
	}
	p := parttest.Shared(b)
	bytes, err := json.Marshal(d)
	require.NoError(b, err)
	keys := fill(b, p.KV(), 1, bytes)
	c := openCache(b, p, "dir", kv.JSON[*document]())
	ctx := b.Context()
	_, err = c.Get(ctx, keys[0])
	require.NoError(b, err)
	b.Run("json", func(b *testing.B) {
		runParallel(b, 1, func(int) { _ = json.Unmarshal(bytes, new(document)) })
	})
	b.Run("hit", func(b *testing.B) {
		runParallel(b, 1, func(int) { _, _ = c.Get(ctx, keys[0]) })
	})
}

// BenchmarkSync reads 100,000 keys: as a bare stream, and into a replica. It reports the live heap
// for each key besides the 8 bytes of the key and the 32 of the value.
func BenchmarkSync(b *testing.B) {
	const n, payload = 100_000, 8 + 32
	cli, dir := etcdtest.Client(b), etcdtest.Prefix(b)
	p := parttest.New(b, cli, dir)
	fill(b, p.KV(), n, make([]byte, payload-8))
	ctx := context.WithoutCancel(b.Context())
	b.Run("stream", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			stream, err := cli.GetStream(ctx, dir+"dir/", clientv3.WithPrefix())
			require.NoError(b, err)
			got := 0
			for resp := range stream {
				require.NoError(b, resp.Err())
				got += len(resp.Kvs)
			}
			require.Equal(b, n, got)
		}
	})
	b.Run("replica", func(b *testing.B) {
		b.ReportAllocs()
		var perKey float64
		for b.Loop() {
			b.StopTimer()
			before := liveHeap()
			b.StartTimer()
			r, err := cache.OpenReplica(ctx, p, "dir", kv.Bytes())
			require.NoError(b, err)
			b.StopTimer()
			require.Equal(b, n, r.Len())
			perKey = float64(liveHeap()-before)/n - payload
			require.NoError(b, r.Close())
			b.StartTimer()
		}
		b.ReportMetric(perKey, "B/key")
	})
}

// liveHeap returns the size of the live heap.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkMissStorm lets 256 goroutines miss one key; it reports reads of etcd for each storm.
func BenchmarkMissStorm(b *testing.B) {
	const callers = 256
	p := parttest.Shared(b)
	keys := fill(b, p.KV(), 1, []byte("value"))
	c := openCache(b, p, "dir", kv.String())
	before := c.Stats().Fills
	storms := 0
	for b.Loop() {
		c.Invalidate(keys[0])
		storms++
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() { _, _ = c.Get(b.Context(), keys[0]) })
		}
		wg.Wait()
	}
	b.ReportMetric(float64(c.Stats().Fills-before)/float64(storms), "reads/storm")
}
