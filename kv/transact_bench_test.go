package kv_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// BenchmarkTransact moves amounts between two of 4 keys, from 16 goroutines, with Transact and with
// the STM of client/v3.
func BenchmarkTransact(b *testing.B) {
	const keys, goroutines = 4, 16
	run := func(b *testing.B, rpcs *etcdtest.RPCCounter, attempts *atomic.Int64, transfer func(from, to string)) {
		b.Helper()
		attempts.Store(0)
		rpcs.Reset()
		var n atomic.Int64
		var all sync.WaitGroup
		b.ResetTimer()
		for range goroutines {
			all.Go(func() {
				for n.Add(1) <= int64(b.N) {
					from := rand.IntN(keys)
					transfer(strconv.Itoa(from), strconv.Itoa((from+1+rand.IntN(keys-1))%keys))
				}
			})
		}
		all.Wait()
		b.ReportMetric(float64(rpcs.Total())/float64(b.N), "RPCs/op")
		b.ReportMetric(float64(attempts.Load()-int64(b.N))/float64(b.N), "conflicts/op")
	}
	fill := func(b *testing.B, cli *clientv3.Client, dir string) {
		b.Helper()
		for i := range keys {
			_, err := cli.Put(b.Context(), fmt.Sprintf("%s%d", dir, i), "1000")
			require.NoError(b, err)
		}
	}
	sum := func(b *testing.B, cli *clientv3.Client, dir string) {
		b.Helper()
		r, err := cli.Get(b.Context(), dir, clientv3.WithPrefix())
		require.NoError(b, err)
		total := 0
		for _, kv := range r.Kvs {
			n, err := strconv.Atoi(string(kv.Value))
			require.NoError(b, err)
			total += n
		}
		require.Equal(b, keys*1000, total)
	}
	b.Run("transact", func(b *testing.B) {
		rpcs, dir := etcdtest.Counter(b), etcdtest.Prefix(b)
		cli := rpcs.Client(b)
		fill(b, cli, dir)
		store := etcdtest.Must(kv.New(cli, kv.WithNamespace(dir)))
		ints := kv.NewTyped(store, "", kv.JSON[int]())
		var attempts atomic.Int64
		run(b, rpcs, &attempts, func(from, to string) {
			_, err := store.Transact(b.Context(), func(_ context.Context, tx *kv.Tx) error {
				attempts.Add(1)
				both, err := ints.In(tx).GetMany(from, to)
				if err != nil {
					return err
				}
				if err := ints.In(tx).Put(from, both[from].Value-1); err != nil {
					return err
				}
				return ints.In(tx).Put(to, both[to].Value+1)
			})
			if err != nil {
				b.Error(err)
			}
		})
		b.StopTimer()
		sum(b, cli, dir)
		b.ReportMetric(float64(store.Stats().Conflicts)/float64(b.N), "refused/op")
	})
	b.Run("stm", func(b *testing.B) {
		rpcs, dir := etcdtest.Counter(b), etcdtest.Prefix(b)
		cli := rpcs.Client(b)
		fill(b, cli, dir)
		var attempts atomic.Int64
		run(b, rpcs, &attempts, func(from, to string) {
			_, err := concurrency.NewSTM(cli, func(stm concurrency.STM) error {
				attempts.Add(1)
				x, err := strconv.Atoi(stm.Get(dir + from))
				if err != nil {
					return err
				}
				y, err := strconv.Atoi(stm.Get(dir + to))
				if err != nil {
					return err
				}
				stm.Put(dir+from, strconv.Itoa(x-1))
				stm.Put(dir+to, strconv.Itoa(y+1))
				return nil
			})
			if err != nil {
				b.Error(err)
			}
		})
		b.StopTimer()
		sum(b, cli, dir)
	})
}

// BenchmarkBatchEach writes 50,000 keys of 100 bytes, with one transaction at a time and with
// several in flight, to a local server and to one that is 5 ms away.
func BenchmarkBatchEach(b *testing.B) {
	const n = 50_000
	server := etcdtest.Start(b)
	for _, away := range []time.Duration{0, 5 * time.Millisecond} {
		proxy := server.Proxy(b)
		proxy.Delay(away / 2)
		for _, inFlight := range []int{1, 8} {
			b.Run(fmt.Sprintf("%v away, %d in flight", away, inFlight), func(b *testing.B) {
				cli := etcdtest.NewClient(b, proxy.Endpoints())
				store := etcdtest.Must(kv.New(cli, kv.WithNamespace(etcdtest.Prefix(b))))
				ops := make([]kv.Op, n)
				for i := range ops {
					ops[i] = kv.OpPut(fmt.Sprintf("k/%07d", i), make([]byte, 100))
				}
				for b.Loop() {
					_, err := store.BatchEach(b.Context(), ops, kv.WithInFlight(inFlight))
					require.NoError(b, err)
				}
			})
		}
	}
}
