package kv_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// BenchmarkCoalesce is the same calls by as many goroutines through client/v3 and shared, in turns
// of a few calls each, so that both meet with the same machine. It reports the time for a call each
// way and how many times as fast the shared ones are. Each goroutine has keys of its own; "hot" is
// the worst case: all of them put one key.
func BenchmarkCoalesce(b *testing.B) {
	cli, home := etcdtest.Client(b), etcdtest.Prefix(b)
	value := strings.Repeat("v", 100)
	const keys = 2048
	key := func(i int) string { return fmt.Sprintf("%s%06d", home, i%keys) }
	for i := range keys {
		_, err := cli.Put(b.Context(), key(i), value)
		require.NoError(b, err)
	}
	ops := []struct {
		name string
		do   func(ctx context.Context, kv clientv3.KV, i int) error
	}{
		{"get", func(ctx context.Context, kv clientv3.KV, i int) error { _, err := kv.Get(ctx, key(i)); return err }},
		{"put", func(ctx context.Context, kv clientv3.KV, i int) error {
			_, err := kv.Put(ctx, key(i), value)
			return err
		}},
		{"hot", func(ctx context.Context, kv clientv3.KV, _ int) error {
			_, err := kv.Put(ctx, key(0), value)
			return err
		}},
	}
	shared := kv.Coalesce(cli.KV)
	for _, op := range ops {
		for _, n := range []int{1, 2, 4, 8, 16, 64, 256} {
			b.Run(fmt.Sprintf("op=%s/goroutines=%d", op.name, n), func(b *testing.B) {
				var direct, coalesced time.Duration
				calls := 0
				for b.Loop() {
					direct += runConcurrently(b, n, func(i int) error { return op.do(b.Context(), cli.KV, i) })
					coalesced += runConcurrently(b, n, func(i int) error { return op.do(b.Context(), shared, i) })
					calls += n * callsEach
				}
				b.ReportMetric(0, "ns/op") // of a turn: says nothing
				b.ReportMetric(float64(direct.Nanoseconds())/float64(calls), "client-ns/call")
				b.ReportMetric(float64(coalesced.Nanoseconds())/float64(calls), "coalesced-ns/call")
				b.ReportMetric(float64(direct)/float64(coalesced), "times-as-fast")
			})
		}
	}
}

const callsEach = 100

// runConcurrently makes n goroutines call, and takes the time until the last of them is through.
func runConcurrently(b *testing.B, n int, do func(i int) error) time.Duration {
	b.Helper()
	var wg sync.WaitGroup
	began := time.Now()
	for me := range n {
		wg.Go(func() {
			for i := range callsEach {
				if err := do(me*7 + i*256*7); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}

// BenchmarkCoalesceAlone measures the overhead for a single caller. The request goes to a stub and
// takes no time.
func BenchmarkCoalesceAlone(b *testing.B) {
	direct := clientv3.NewKVFromKVClient(&fakeConstantServer{}, nil)
	for _, op := range operations() {
		for _, c := range []variant{{"client", direct, benchKey}, {"coalesced", kv.Coalesce(direct), benchKey}} {
			b.Run("op="+op.name+"/kv="+c.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := op.do(b.Context(), c.kv, c.key); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

//nolint:paralleltest // counts allocations of the whole process
func TestCoalesce_SingleCallerAllocatesNothing(t *testing.T) {
	direct := clientv3.NewKVFromKVClient(&fakeConstantServer{}, nil)
	shared := kv.Coalesce(direct)
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			var got []float64
			for _, k := range []clientv3.KV{direct, shared} {
				got = append(got, testing.AllocsPerRun(1000, func() {
					require.NoError(t, op.do(t.Context(), k, benchKey))
				}))
			}
			assert.LessOrEqual(t, got[1], got[0])
		})
	}
}
