package scan_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/scan"
)

// fill writes n keys below dir, all with the value.
func fill(tb testing.TB, cli *clientv3.Client, dir string, n int, value string) {
	tb.Helper()
	var writers sync.WaitGroup
	defer writers.Wait()
	turns := make(chan struct{}, 4)
	for from := 0; from < n; from += 100 {
		turns <- struct{}{}
		writers.Go(func() {
			defer func() { <-turns }()
			var ops []clientv3.Op
			for i := from; i < min(from+100, n); i++ {
				ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s%08d", dir, i), value))
			}
			_, err := cli.Txn(tb.Context()).Then(ops...).Commit()
			assert.NoError(tb, err)
		})
	}
}

// TestScan_IsOneRevisionUnderWrites has writers change two keys at the two ends of the listing, and
// more in between, always together: whoever sees different values has seen two revisions.
func TestScan_IsOneRevisionUnderWrites(t *testing.T) {
	t.Parallel()
	const n = 50_000
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	fill(t, cli, dir, n, "0")

	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	defer writer.Wait()
	defer stop()
	var written atomic.Int64
	writer.Go(func() {
		for ctx.Err() == nil {
			var ops []clientv3.Op
			for i := 0; i < n; i += n / 100 {
				ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s%08d", dir, i), strconv.FormatInt(written.Load()+1, 10)))
			}
			if _, err := cli.Txn(ctx).Then(ops...).Commit(); err == nil {
				written.Add(1)
			}
		}
	})

	// A KV of package namespace has no streams.
	readers := map[string]scan.Reader{"streams": cli.KV, "pages": namespace.NewKV(cli.KV, "")}
	for name, reader := range readers {
		s := scan.New(reader, nil, keyspace.Spans(dir, ""), scan.Options{})
		before := written.Load()
		values, count, last := map[string]int{}, 0, ""
		for kvs, err := range s.Chunks(t.Context()) {
			require.NoError(t, err)
			for _, kv := range kvs {
				require.Less(t, last, string(kv.Key), name)
				require.LessOrEqual(t, kv.ModRevision, s.Revision(), name)
				last = string(kv.Key)
				if count%(n/100) == 0 {
					values[string(kv.Value)]++
				}
				count++
			}
		}
		assert.Equal(t, n, count, name)
		assert.Len(t, values, 1, "%s: all that was written together is read together", name)
		assert.Greater(t, written.Load(), before, "%s: there were writes meanwhile", name)
	}
}

//nolint:paralleltest // measures the heap of the process
func TestScan_KeepsOneChunkInMemory(t *testing.T) {
	const n, size = 50_000, 1 << 10
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	fill(t, cli, dir, n, strings.Repeat("v", size))

	readers := map[string]scan.Reader{"streams": cli.KV, "pages": namespace.NewKV(cli.KV, "")}
	for name, reader := range readers {
		before, most := liveHeap(), uint64(0)
		chunks, count := 0, 0
		for kvs, err := range scan.New(reader, nil, keyspace.Spans(dir, ""), scan.Options{}).Chunks(t.Context()) {
			require.NoError(t, err)
			count += len(kvs)
			chunks++
			if chunks%5 == 0 {
				most = max(most, liveHeap())
			}
		}
		require.Equal(t, n, count)
		require.NotZero(t, most)
		// The whole is above 50 MB; a chunk is about 1.5 MB, and a few are on their way.
		assert.Less(t, int64(most)-int64(before), int64(20<<20), name)
	}
}

func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestScan_CompactionDuringLoop(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	cli := server.Client(t)
	// This is more than the connection buffers.
	fill(t, cli, "app/", 20_000, strings.Repeat("v", 2<<10))
	for name, reader := range map[string]scan.Reader{"streams": cli.KV, "pages": namespace.NewKV(cli.KV, "")} {
		var last error
		count := 0
		for kvs, err := range scan.New(reader, nil, app(), scan.Options{}).Chunks(t.Context()) {
			if count == 0 {
				fill(t, cli, "other/", 200, "x")
				server.Compact(0)
			}
			count += len(kvs)
			last = err
		}
		require.ErrorIs(t, last, errs.Compacted, name)
		assert.NotZero(t, count, name)
		assert.Less(t, count, 20_000, name)
	}
	_, err := collect(t, scan.New(cli.KV, nil, app(), scan.Options{Rev: 2}))
	require.ErrorIs(t, err, errs.Compacted)
}

func TestScan_LimitAndReverse(t *testing.T) {
	t.Parallel()
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	fill(t, cli, dir, 1300, "v")
	fill(t, cli, dir+keyspace.Hidden, 10, "v")
	for _, c := range []struct {
		name        string
		o           scan.Options
		n           int
		first, last string
	}{
		{"all of them", scan.Options{}, 1300, "00000000", "00001299"},
		{"the first ones", scan.Options{Limit: 700}, 700, "00000000", "00000699"},
		{"backwards", scan.Options{Reverse: true}, 1300, "00001299", "00000000"},
		{"the last ones", scan.Options{Reverse: true, Limit: 700}, 700, "00001299", "00000600"},
		{"in small pages", scan.Options{Reverse: true, Limit: 700, PageSize: 99}, 700, "00001299", "00000600"},
		{"a limit beyond the end", scan.Options{Limit: 5000, KeysOnly: true}, 1300, "00000000", "00001299"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := scan.New(cli.KV, nil, keyspace.Spans(dir, ""), c.o)
			got, err := collect(t, s)
			require.NoError(t, err)
			require.Len(t, got, c.n)
			assert.Equal(t, dir+c.first, got[0])
			assert.Equal(t, dir+c.last, got[len(got)-1])
		})
	}
}

func TestScan_BreakLeavesNoGoroutine(t *testing.T) {
	t.Parallel()
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	fill(t, cli, dir, 2000, strings.Repeat("v", 1<<10))
	for leaveAfter := range 20 {
		seen := 0
		for _, err := range scan.New(cli.KV, nil, keyspace.Spans(dir, ""), scan.Options{}).Chunks(t.Context()) {
			require.NoError(t, err)
			seen++
			if seen > leaveAfter {
				break
			}
		}
	}
}
