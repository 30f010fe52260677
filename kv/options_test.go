package kv_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
)

func TestNew_LastOptionWins(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := b.open(kv.WithNamespace("elsewhere"), kv.WithNamespace(b.dir+"inner"))
	_, err := s.Put(t.Context(), "k", []byte("x"), kv.WithTTL(time.Hour), kv.WithTTL(time.Minute))
	require.NoError(t, err)
	assert.Equal(t, "x", b.value(t, "inner/k"))
	ttl, err := b.raw.TimeToLive(t.Context(), b.leaseOf(t, "inner/k"))
	require.NoError(t, err)
	assert.EqualValues(t, 60, ttl.GrantedTTL)
}

func TestWithNamespace_AddsSlash(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, dir := range []string{"x", "x/", "x//"} {
		_, err := etcdtest.Must(kv.New(b.cli, kv.WithNamespace(b.dir+dir))).Put(t.Context(), "k", []byte(dir))
		require.NoError(t, err)
		assert.Equal(t, dir, b.value(t, "x/k"))
	}
}

// fakeFlakyServer fails reads a number of times.
type fakeFlakyServer struct {
	pb.KVClient

	failures, calls int
}

func (f *fakeFlakyServer) Range(context.Context, *pb.RangeRequest, ...grpc.CallOption) (*pb.RangeResponse, error) {
	f.calls++
	if f.calls <= f.failures {
		return nil, status.Error(codes.Unavailable, "etcdserver: not today")
	}
	return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 1}}, nil
}

func overFlakyServer(t *testing.T, failures int, opts ...kv.Option) (*kv.Store, *fakeFlakyServer) {
	t.Helper()
	stub := &fakeFlakyServer{failures: failures}
	cli := clientv3.NewCtxClient(t.Context())
	cli.KV = clientv3.NewKVFromKVClient(stub, nil)
	return etcdtest.Must(kv.New(cli, opts...)), stub
}

func TestWithRetry_SetsAttempts(t *testing.T) {
	t.Parallel()
	quick := kv.RetryPolicy{BaseDelay: time.Millisecond, MaxDelay: 2 * time.Millisecond}
	for attempts, want := range map[int]int{0: 3, 1: 1, 2: 2, 5: 5} {
		p := quick
		p.MaxAttempts = attempts
		type retried struct {
			op      string
			attempt int
		}
		var retries []retried
		s, stub := overFlakyServer(t, 100, kv.WithRetry(p), scopetest.Option[kv.Option](scope.Hooks{Retry: func(_ context.Context, op scope.Operation, attempt int, err error) {
			assert.ErrorContains(t, err, "not today")
			retries = append(retries, retried{op.Name, attempt})
		}}))
		_, err := s.Exists(t.Context(), "k")
		require.ErrorIs(t, err, kv.ErrUnavailable)
		assert.Equal(t, want, stub.calls)
		assert.Len(t, retries, want-1)
		for i, one := range retries {
			assert.Equal(t, retried{"exists", i + 1}, one)
		}
		assert.Equal(t, kv.Stats{Calls: 1, Retries: uint64(want - 1)}, s.Stats())
	}
}

func TestStore_ReadSucceedsAfterRetries(t *testing.T) {
	t.Parallel()
	s, stub := overFlakyServer(t, 2, kv.WithRetry(kv.RetryPolicy{BaseDelay: time.Millisecond}))
	_, err := s.Get(t.Context(), "k")
	require.ErrorIs(t, err, kv.ErrNotFound)
	assert.Equal(t, 3, stub.calls)
}

func TestWithTimeouts_BoundsCalls(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	b := privateBench(t, server, kv.WithTimeouts(30*time.Millisecond, 40*time.Millisecond))
	_, err := b.Put(t.Context(), "k", nil)
	if err != nil {
		// The connection may take longer than that.
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	server.Pause()
	defer server.Resume()
	_, err = b.Get(t.Context(), "k")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, kv.ErrUnavailable)
	require.ErrorContains(t, err, "30ms")
	_, err = b.Put(t.Context(), "k", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "40ms")
}

func TestStore_ErrorTexts(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "changed meanwhile: wanted revision 5: found revision 7", (&kv.ConflictError{Key: "k", Want: 5, Have: 7}).Error())
	assert.Equal(t, "changed meanwhile: wanted revision 5: the key does not exist", (&kv.ConflictError{Key: "k", Want: 5}).Error())
	assert.Equal(t, "changed meanwhile: found revision 7", (&kv.ConflictError{Key: "k", Have: 7}).Error())
	be := &kv.BatchError{Done: 3, Err: errNoMore}
	require.EqualError(t, be, "batch stopped after 3 operations: the user has gone home")
	require.ErrorIs(t, be, errNoMore)
	require.ErrorIs(t, kv.ErrTooLarge, kv.ErrInvalid)
	assert.False(t, errors.Is(kv.ErrInvalid, kv.ErrTooLarge))
}
