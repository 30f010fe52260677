package kv_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// competitors is the same call through a store, and through client/v3 with the absolute key.
type competitors struct {
	name          string
	store, client func(ctx context.Context) error
}

// allCompetitors are calls over a server that answers at once, so that only the client side is
// measured.
func allCompetitors(ctx context.Context) []competitors {
	key := []byte(benchDir + benchKey)
	stub := &fakeConstantServer{
		get: pb.RangeResponse{
			Header: &pb.ResponseHeader{Revision: 7}, Count: 1,
			Kvs: []*mvccpb.KeyValue{{Key: key, Value: []byte("value"), CreateRevision: 5, ModRevision: 5, Version: 1}},
		},
		put: pb.PutResponse{Header: &pb.ResponseHeader{Revision: 8}},
		del: pb.DeleteRangeResponse{Header: &pb.ResponseHeader{Revision: 8}, Deleted: 1},
		txn: pb.TxnResponse{Header: &pb.ResponseHeader{Revision: 8}, Succeeded: true, Responses: []*pb.ResponseOp{{}}},
	}
	cli := clientv3.NewCtxClient(ctx)
	cli.KV = clientv3.NewKVFromKVClient(stub, cli)
	store := etcdtest.Must(kv.New(cli, kv.WithNamespace(benchDir)))
	value, text := []byte("value"), "value"
	return []competitors{
		{
			"Get",
			func(ctx context.Context) error { _, err := store.Get(ctx, benchKey); return err },
			func(ctx context.Context) error { _, err := cli.Get(ctx, benchDir+benchKey); return err },
		},
		{
			"Put",
			func(ctx context.Context) error { _, err := store.Put(ctx, benchKey, value); return err },
			func(ctx context.Context) error { _, err := cli.Put(ctx, benchDir+benchKey, text); return err },
		},
		{
			"Replace",
			func(ctx context.Context) error { _, err := store.Replace(ctx, benchKey, value, 5); return err },
			func(ctx context.Context) error {
				_, err := cli.Txn(ctx).
					If(clientv3.Compare(clientv3.ModRevision(benchDir+benchKey), "=", 5)).
					Then(clientv3.OpPut(benchDir+benchKey, text)).
					Else(clientv3.OpGet(benchDir + benchKey)).
					Commit()
				return err
			},
		},
		{
			"Delete",
			func(ctx context.Context) error { _, err := store.Delete(ctx, benchKey); return err },
			func(ctx context.Context) error { _, err := cli.Delete(ctx, benchDir+benchKey); return err },
		},
	}
}

func BenchmarkStore(b *testing.B) {
	ctx, stop := context.WithTimeout(b.Context(), time.Hour)
	defer stop()
	for _, p := range allCompetitors(ctx) {
		for _, way := range []struct {
			name string
			call func(context.Context) error
		}{{"client", p.client}, {"store", p.store}} {
			b.Run(p.name+"/"+way.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := way.call(ctx); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// A call whose context has a deadline costs a handful of allocations more than that of client/v3.
func TestStore_Allocations(t *testing.T) { //nolint:paralleltest // allocations of other tests would count
	ctx, stop := context.WithTimeout(t.Context(), time.Hour)
	defer stop()
	for _, p := range allCompetitors(ctx) {
		var err error
		client := testing.AllocsPerRun(200, func() { err = errors.Join(err, p.client(ctx)) })
		store := testing.AllocsPerRun(200, func() { err = errors.Join(err, p.store(ctx)) })
		require.NoError(t, err, p.name)
		assert.LessOrEqual(t, store-client, 6.0, "%s: %v allocations, and %v over client/v3", p.name, client, store)
	}
}

// together runs f n times from each of so many goroutines.
func together(tb testing.TB, goroutines, n int, f func() error) {
	tb.Helper()
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range n {
				if err := f(); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkUpdate increments one key from 32 goroutines, which is one iteration.
func BenchmarkUpdate(b *testing.B) {
	const goroutines, each = 32, 5
	run := func(name string, once func(rig bench, key string) error) {
		b.Run(name, func(b *testing.B) {
			rig := newBench(b)
			rig.put(b, "k", "0")
			rig.rpcs.Reset()
			for b.Loop() {
				together(b, goroutines, each, func() error { return once(rig, "k") })
			}
			updates := float64(b.N) * goroutines * each
			b.ReportMetric(float64(b.Elapsed().Microseconds())/updates, "us/update")
			b.ReportMetric(float64(rig.rpcs.Total())/updates, "RPCs/update")
			if got, want := rig.value(b, "k"), strconv.Itoa(int(updates)); got != want {
				b.Errorf("the counter is at %s instead of %s", got, want)
			}
		})
	}
	run("stm", func(rig bench, key string) error {
		_, err := concurrency.NewSTM(rig.cli, func(stm concurrency.STM) error {
			n, err := strconv.Atoi(stm.Get(rig.dir + key))
			stm.Put(rig.dir+key, strconv.Itoa(n+1))
			return err
		})
		return err
	})
	run("update", func(rig bench, key string) error {
		_, err := rig.Update(b.Context(), key, increment)
		return err
	})
	run("update-once", func(rig bench, key string) error {
		_, err := rig.Update(b.Context(), key, increment, kv.WithOnce())
		return err
	})
}

// BenchmarkBatch writes 128 keys, which is one iteration.
func BenchmarkBatch(b *testing.B) {
	const keys = 128
	cli := etcdtest.Client(b)
	store := etcdtest.Must(kv.New(cli, kv.WithNamespace(etcdtest.Prefix(b))))
	var ops []kv.Op
	for i := range keys {
		ops = append(ops, kv.OpPut(fmt.Sprintf("many/%04d", i), []byte("value")))
	}
	run := func(name string, write func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := write(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*keys), "us/key")
		})
	}
	run("puts", func() error {
		for i := range keys {
			if _, err := store.Put(b.Context(), fmt.Sprintf("many/%04d", i), []byte("value")); err != nil {
				return err
			}
		}
		return nil
	})
	run("batch", func() error {
		_, err := store.Batch(b.Context(), ops...)
		return err
	})
}
