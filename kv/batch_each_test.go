package kv_test

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestBatchEach_ReturnsResultsOfEachOperation(t *testing.T) {
	t.Parallel()
	b := newBench(t, kv.WithLimits(kv.Limits{TxnOps: 2}))
	b.put(t, "gone", "")
	for _, inFlight := range []int{1, 4} {
		results, err := b.BatchEach(t.Context(), []kv.Op{
			kv.OpPut("a", nil), kv.OpDelete("absent"), kv.OpPut("b", nil), kv.OpPut("c", nil), kv.OpPut("a", []byte("2")),
		}, kv.WithInFlight(inFlight))
		require.NoError(t, err)
		require.Len(t, results, 5)
		for i, r := range results {
			require.NoError(t, r.Err)
			assert.Equal(t, i != 1, r.Revision > 0, "operation %d", i)
		}
		assert.Greater(t, results[4].Revision, results[0].Revision, "operations on one key keep their order")
		assert.Equal(t, "2", b.value(t, "a"))
	}
	b.refused(t, func() error { _, err := b.BatchEach(t.Context(), nil, kv.WithInFlight(0)); return err }, kv.ErrInvalid)
	b.refused(t, func() error { _, err := b.BatchEach(t.Context(), []kv.Op{kv.OpPut("", nil)}); return err }, kv.ErrInvalid)
}

func TestBatchEach_StopsAfterFailure(t *testing.T) {
	t.Parallel()
	b := newBench(t, kv.WithLimits(kv.Limits{TxnOps: 2}))
	ops := []kv.Op{kv.OpPut("0", nil), kv.OpPut("1", nil), kv.OpPut("2", nil, kv.WithLease(12345)), kv.OpPut("3", nil), kv.OpDelete("4"), kv.OpPut("5", nil)}
	results, err := b.BatchEach(t.Context(), ops)
	var stopped *kv.BatchError
	require.ErrorAs(t, err, &stopped)
	assert.Equal(t, 2, stopped.Done)
	assert.Equal(t, results[1].Revision, stopped.Revision)
	assert.Positive(t, stopped.Revision)
	for i, r := range results {
		switch {
		case i < 2:
			require.NoError(t, r.Err)
		case i < 4:
			require.ErrorContains(t, r.Err, "lease not found")
		default:
			require.ErrorIs(t, r.Err, kv.ErrNotSent)
		}
	}
	_, err = b.Batch(t.Context(), ops...)
	require.ErrorAs(t, err, &stopped)
	assert.Positive(t, stopped.Revision, "the last applied revision after a partial failure")
	assert.Equal(t, 2, stopped.Done)
}

func TestBatchEach_SendsSeveralTransactionsAtOnce(t *testing.T) {
	t.Parallel()
	const inFlight = 8
	var mu sync.Mutex
	now, most := 0, 0
	full := make(chan struct{}) // closed when inFlight transactions are in flight
	b := newTxnBench(t, etcdtest.Client, func(_ bench, send sendTxn) (*pb.TxnResponse, error) {
		mu.Lock()
		now++
		if now == inFlight && most < inFlight {
			close(full)
		}
		most = max(most, now)
		mu.Unlock()
		defer func() { mu.Lock(); defer mu.Unlock(); now-- }()
		tooFew := time.NewTimer(10 * time.Second)
		defer tooFew.Stop()
		select {
		case <-full:
		case <-tooFew.C:
			return nil, status.Error(codes.InvalidArgument, "too few transactions are in flight")
		}
		return send()
	})
	ops := make([]kv.Op, 5000)
	for i := range ops {
		ops[i] = kv.OpPut(fmt.Sprintf("k/%05d", i%4000), fmt.Append(nil, i))
	}
	results, err := b.BatchEach(t.Context(), ops, kv.WithInFlight(inFlight))
	require.NoError(t, err)
	assert.Equal(t, inFlight, most)
	for i := range 1000 {
		assert.Less(t, results[i].Revision, results[4000+i].Revision)
		assert.Equal(t, strconv.Itoa(4000+i), b.value(t, fmt.Sprintf("k/%05d", i)))
	}
}
