package kv_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

func (b bench) leases(t *testing.T) int {
	t.Helper()
	r, err := b.raw.Leases(t.Context())
	require.NoError(t, err)
	return len(r.Leases)
}

func TestWithTTL_WritesWithTheSameTTLShareALease(t *testing.T) {
	t.Parallel()
	b := privateBench(t, etcdtest.Start(t))
	b.costs(t, map[string]int{"Lease/LeaseGrant": 1, "KV/Put": 50}, func() {
		for i := range 50 {
			_, err := b.Put(t.Context(), "k", []byte(strconv.Itoa(i)), kv.WithTTL(time.Hour))
			require.NoError(t, err)
		}
	})
	assert.Equal(t, 1, b.leases(t))
	ttl, err := b.raw.TimeToLive(t.Context(), b.leaseOf(t, "k"))
	require.NoError(t, err)
	assert.EqualValues(t, 3600+180, ttl.GrantedTTL)

	b.costs(t, map[string]int{"KV/Put": 1}, func() {
		_, err := b.Namespace("below").Put(t.Context(), "k", nil, kv.WithTTL(time.Hour-time.Nanosecond))
		require.NoError(t, err)
	})
	b.AgeTTLs(3*time.Minute + time.Second)
	b.costs(t, map[string]int{"Lease/LeaseGrant": 1, "KV/Put": 1}, func() {
		_, err := b.Put(t.Context(), "k", nil, kv.WithTTL(time.Hour))
		require.NoError(t, err)
	})
	assert.Equal(t, 2, b.leases(t))
}

func TestWithTTL_ManyWritersWaitForOneGrant(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.costs(t, map[string]int{"Lease/LeaseGrant": 1, "KV/Put": 50}, func() {
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				_, err := b.Put(t.Context(), strconv.Itoa(i), nil, kv.WithTTL(2*time.Minute))
				assert.NoError(t, err)
			})
		}
		all.Wait()
	})
}

func TestWithTTL_BoundsKeysPerLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := b.Batch(t.Context(), puts(1100, 1, kv.WithTTL(2*time.Minute))...)
	require.NoError(t, err)
	keys := map[int64]int{}
	for e, err := range b.List(t.Context(), "") {
		require.NoError(t, err)
		keys[int64(e.Lease)]++
	}
	require.Len(t, keys, 2)
	for _, n := range keys {
		assert.LessOrEqual(t, n, 1000)
	}
}

func TestWithTTL_RefusedWritesKeepASharedLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "x")
	b.costs(t, map[string]int{"Lease/LeaseGrant": 1, "KV/Txn": 10}, func() {
		for range 10 {
			_, err := b.Create(t.Context(), "k", nil, kv.WithTTL(2*time.Minute))
			require.ErrorIs(t, err, kv.ErrExists)
		}
	})
}

func TestWithTTL_ReplacesRevokedSharedLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, write := range map[string]func(ttl kv.PutOption) error{
		"put":       func(ttl kv.PutOption) error { return errOf(b.Put(t.Context(), "k", nil, ttl)) },
		"put, once": func(ttl kv.PutOption) error { return errOf(b.Put(t.Context(), "k", nil, ttl, kv.WithOnce())) },
		"batch":     func(ttl kv.PutOption) error { return errOf(b.Batch(t.Context(), kv.OpPut("k", nil, ttl))) },
	} {
		require.NoError(t, write(kv.WithTTL(2*time.Minute)), name)
		_, err := b.raw.Revoke(t.Context(), b.leaseOf(t, "k"))
		require.NoError(t, err)
		require.Equal(t, "<none>", b.value(t, "k"))
		require.NoError(t, write(kv.WithTTL(2*time.Minute)), name)
		assert.NotZero(t, b.leaseOf(t, "k"), name)
	}
	_, err := b.Batch(t.Context(), kv.OpPut("k", nil, kv.WithTTL(2*time.Minute)), kv.OpPut("l", nil, kv.WithLease(12345)))
	require.ErrorIs(t, err, errs.LeaseNotFound, "that of the caller is not replaced")
}

// A batch that takes longer than the TTL would lose the keys that it wrote first, and then its
// lease.
func TestBatch_ShortTTLGrantsLeasePerTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.costs(t, map[string]int{"Lease/LeaseGrant": 3, "KV/Txn": 3}, func() {
		_, err := b.Batch(t.Context(), puts(300, 1, kv.WithTTL(30*time.Second))...)
		require.NoError(t, err)
	})
	assert.Equal(t, b.leaseOf(t, "many/0000"), b.leaseOf(t, "many/0127"))
	assert.NotEqual(t, b.leaseOf(t, "many/0127"), b.leaseOf(t, "many/0128"))
}

func TestBatch_CountsBytesOfGuards(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	long := strings.Repeat("g", 900)
	b.put(t, long, "")
	guard := kv.WithGuard(kv.NewGuard(errOwner, clientv3.Compare(clientv3.CreateRevision(b.dir+long), ">", 0)))
	for d := range 32 { // values between those of which two fit into a transaction, and three
		value := make([]byte, 3<<19/3-300-d*20)
		var ops []kv.Op
		for i := range 3 {
			ops = append(ops, kv.OpPut("k"+strconv.Itoa(i), value, guard))
		}
		_, err := b.Batch(t.Context(), ops...)
		require.NoError(t, err, "%d bytes", len(value))
	}
}

func TestStore_QueueTimeoutNamesEndpoints(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	for name, put := range map[string]func(ctx context.Context, s *kv.Store) error{
		"once": func(ctx context.Context, s *kv.Store) error { return errOf(s.Put(ctx, "k", nil, kv.WithOnce())) },
		"ttl": func(ctx context.Context, s *kv.Store) error {
			return errOf(s.Put(ctx, "k", nil, kv.WithTTL(time.Hour)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, n := srv.Proxy(t), etcdtest.Counter(t)
			s := etcdtest.Must(kv.New(etcdtest.NewClient(t, p.Endpoints(), hardened(t), n.Option), kv.WithNamespace(name)))
			_, err := s.Exists(t.Context(), "k")
			require.NoError(t, err)
			p.Blackhole(true, true)
			first, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- put(first, s) }()
			require.Eventually(t, func() bool { return n.Count("Lease/LeaseGrant") == 1 }, 10*time.Second, time.Millisecond)
			for range 2 {
				ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
				err := put(ctx, s)
				stop()
				require.ErrorIs(t, err, kv.ErrUnavailable)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorContains(t, err, "while waiting for")
				require.ErrorContains(t, err, p.Endpoint())
				assert.True(t, errs.NotApplied(err))
			}
			stop()
			require.ErrorIs(t, <-done, context.Canceled)

			ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
			err = put(ctx, s)
			stop()
			require.ErrorIs(t, err, kv.ErrUnavailable)
			require.ErrorContains(t, err, "endpoints "+p.Endpoints()[0], "the one that does not wait for another")
			p.Heal()
		})
	}
}
