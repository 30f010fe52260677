package kv_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// puts is n puts on keys of their own, with values of the given size.
func puts(n, size int, o ...kv.PutOption) (ops []kv.Op) {
	for i := range n {
		ops = append(ops, kv.OpPut(fmt.Sprintf("many/%04d", i), []byte(strings.Repeat("v", size)), o...))
	}
	return ops
}

func (b bench) count(tb testing.TB, prefix string) int {
	tb.Helper()
	r, err := b.raw.Get(tb.Context(), b.dir+prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	require.NoError(tb, err)
	return int(r.Count)
}

func TestBatch_SplitsAtTxnLimit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var rev int64
	b.costs(t, rpc("KV/Txn", 8), func() {
		var err error
		rev, err = b.Batch(t.Context(), puts(1000, 1)...)
		require.NoError(t, err)
	})
	assert.Equal(t, 1000, b.count(t, "many/"))
	last, err := b.Get(t.Context(), "many/0999")
	require.NoError(t, err)
	assert.Equal(t, rev, last.ModRevision)
	first, err := b.Get(t.Context(), "many/0000")
	require.NoError(t, err)
	end, err := b.Get(t.Context(), "many/0127")
	require.NoError(t, err)
	assert.Equal(t, first.ModRevision, end.ModRevision, "one transaction")
}

func TestBatch_SplitsAtConfiguredLimit(t *testing.T) {
	t.Parallel()
	b := newBench(t, kv.WithLimits(kv.Limits{TxnOps: 10}))
	b.costs(t, rpc("KV/Txn", 3), func() {
		_, err := b.Batch(t.Context(), puts(25, 1)...)
		require.NoError(t, err)
	})
}

// Each transaction has to be one that etcd takes, whatever the sizes of the values.
func TestBatch_SplitsBeforeRequestLimit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, n := range []int{2, 10, 100, 128} {
		for _, slack := range []int{-40, -8, 0, 8} {
			size := 3<<19/n - len(b.dir) - len("many/0000") - 8 + slack
			ops := puts(n, size)
			_, err := b.Batch(t.Context(), ops...)
			require.NoError(t, err, "%d values of %d bytes", n, size)
		}
	}
	b.costs(t, rpc("KV/Txn", 3), func() {
		_, err := b.Batch(t.Context(), puts(5, 700<<10)...)
		require.NoError(t, err)
	})
}

func TestBatch_KeepsOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "gone", "x")
	b.costs(t, rpc("KV/Txn", 3), func() { // a key that comes again begins a transaction
		_, err := b.Batch(t.Context(),
			kv.OpPut("a", []byte("1")), kv.OpDelete("gone"), kv.OpDelete("never"),
			kv.OpPut("a", []byte("2")), kv.OpPut("b", []byte("1")),
			kv.OpDelete("b"),
		)
		require.NoError(t, err)
	})
	assert.Equal(t, "2", b.value(t, "a"))
	assert.Equal(t, "<none>", b.value(t, "b"))
	assert.Equal(t, "<none>", b.value(t, "gone"))
}

func TestBatch_ReturnsRevisionOfSingleOperation(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rev, err := b.Batch(t.Context(), kv.OpPut("a", []byte("x")))
	require.NoError(t, err)
	e, err := b.Get(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, rev, e.ModRevision)
}

func TestBatch_ChecksAllOperationsBeforeSending(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	cmp := clientv3.Compare(clientv3.Version("a"), "=", 0)
	var cmps []clientv3.Cmp
	for range 128 {
		cmps = append(cmps, cmp)
	}
	for name, op := range map[string]kv.Op{ //nolint:paralleltest // as above
		"the zero Op":            {},
		"an empty key":           kv.OpPut("", nil),
		"an empty key to delete": kv.OpDelete(""),
		"a long key":             kv.OpDelete(strings.Repeat("k", 4097)),
		"a long value":           kv.OpPut("k", make([]byte, 3<<19)),
		"a hidden key":           kv.OpPut(".etcdkit/x", nil),
		"no TTL":                 kv.OpPut("k", nil, kv.WithTTL(0)),
		"two leases":             kv.OpPut("k", nil, kv.WithTTL(time.Minute), kv.WithLease(7)),
		"no guard":               kv.OpDelete("k", kv.WithGuard(nil)),
		"a guard that is too long for any transaction": kv.OpPut("k", nil, kv.WithGuard(kv.NewGuard(errOwner, cmps...))),
	} {
		t.Run(name, func(t *testing.T) {
			ops := append(puts(3, 1, kv.WithTTL(time.Minute)), op)
			b.refused(t, func() error { _, err := b.Batch(t.Context(), ops...); return err }, kv.ErrInvalid)
			_, err := b.Batch(t.Context(), ops...)
			var be *kv.BatchError
			require.ErrorAs(t, err, &be)
			assert.Zero(t, be.Done)
			assert.ErrorContains(t, err, "operation 3")
		})
	}
	b.costs(t, map[string]int{}, func() {
		rev, err := b.Batch(t.Context())
		require.NoError(t, err)
		assert.Zero(t, rev, "nothing to do")
	})
	assert.Zero(t, b.count(t, ""))
}

func TestBatch_ErrorHoldsAppliedCount(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	g, lose := hold(t, b, errOwner)
	lose()
	ops := puts(300, 1)
	ops = append(ops, kv.OpPut("guarded", nil, kv.WithGuard(g)), kv.OpPut("after", nil))
	rev, err := b.Batch(t.Context(), ops...)
	require.ErrorIs(t, err, kv.ErrGuard)
	require.ErrorIs(t, err, errOwner)
	assert.Zero(t, rev)
	var be *kv.BatchError
	require.ErrorAs(t, err, &be)
	assert.Equal(t, 300, be.Done)
	assert.False(t, errs.NotApplied(err), "some of it was applied")
	assert.Equal(t, 300, b.count(t, "many/"))
	assert.Equal(t, "<none>", b.value(t, "after"))

	_, err = b.Batch(t.Context(), ops[be.Done+1:]...)
	require.NoError(t, err)
	assert.Empty(t, b.value(t, "after"))

	_, err = b.Batch(t.Context(), ops[300:]...)
	require.ErrorIs(t, err, kv.ErrGuard)
	assert.True(t, errs.NotApplied(err), "none of it was")
}

func TestBatch_EqualGuardsShareTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one, _ := hold(t, b, errOwner)
	two, _ := hold(t, b, errNoMore)
	b.costs(t, rpc("KV/Txn", 3), func() {
		_, err := b.Batch(t.Context(),
			kv.OpPut("a", nil, kv.WithGuard(one)), kv.OpDelete("b", kv.WithGuard(one)),
			kv.OpPut("c", nil, kv.WithGuard(two)),
			kv.OpPut("d", nil), kv.OpPut("e", nil, kv.WithGuard()),
		)
		require.NoError(t, err)
	})
}

func TestBatch_WithTTLGrantsOneLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.costs(t, map[string]int{"Lease/LeaseGrant": 2, "KV/Txn": 2}, func() {
		ops := puts(200, 1, kv.WithTTL(10*time.Minute))
		_, err := b.Batch(t.Context(), append(ops, kv.OpPut("other", nil, kv.WithTTL(time.Hour)))...)
		require.NoError(t, err)
	})
	assert.NotZero(t, b.leaseOf(t, "many/0000"))
	assert.Equal(t, b.leaseOf(t, "many/0000"), b.leaseOf(t, "many/0199"))
	assert.NotEqual(t, b.leaseOf(t, "many/0000"), b.leaseOf(t, "other"))
}

func TestBatch_WithSameLeaseKeepsLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lease := b.lease(t)
	ops := puts(150, 1, kv.WithLease(lease))
	_, err := b.Batch(t.Context(), ops...)
	require.NoError(t, err)
	_, err = b.Batch(t.Context(), puts(150, 2, kv.WithSameLease())...)
	require.NoError(t, err)
	_, err = b.Batch(t.Context(), kv.OpPut("many/0003", nil), kv.OpPut("absent", nil, kv.WithSameLease()))
	require.NoError(t, err)
	assert.Equal(t, lease, b.leaseOf(t, "many/0000"))
	assert.Equal(t, "vv", b.value(t, "many/0149"))
	assert.Equal(t, lease, b.leaseOf(t, "many/0149"))
	assert.Zero(t, b.leaseOf(t, "many/0003"))
	assert.Zero(t, b.leaseOf(t, "absent"))
}

func TestBatch_FailureKeepsLeaseOfAppliedWrites(t *testing.T) {
	t.Parallel()
	b := privateBench(t, etcdtest.Start(t))
	g, lose := hold(t, b, errOwner)
	lose()
	ops := append(puts(128, 1, kv.WithTTL(30*time.Second)), kv.OpPut("k", nil, kv.WithTTL(30*time.Second), kv.WithGuard(g)), kv.OpPut("l", nil, kv.WithTTL(40*time.Second), kv.WithGuard(g)))
	_, err := b.Batch(t.Context(), ops...)
	require.ErrorIs(t, err, kv.ErrGuard)
	leases, err := b.raw.Leases(t.Context())
	require.NoError(t, err)
	require.Len(t, leases.Leases, 1)
	assert.Equal(t, b.leaseOf(t, "many/0000"), leases.Leases[0].ID)
}
