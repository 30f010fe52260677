package kv_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// conflict checks that err is a conflict on a key that was found at the revision have.
func conflict(t *testing.T, err error, key string, want, have int64) {
	t.Helper()
	require.ErrorIs(t, err, kv.ErrConflict)
	var c *kv.ConflictError
	require.ErrorAs(t, err, &c)
	assert.Equal(t, kv.ConflictError{Key: key, Want: want, Have: have}, *c)
	assert.True(t, errs.NotApplied(err))
}

func TestPut_ReturnsRevision(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	value := []byte("v")
	var first int64
	b.costs(t, rpc("KV/Put", 1), func() {
		var err error
		first, err = b.Put(t.Context(), "k", value)
		require.NoError(t, err)
	})
	second, err := b.Put(t.Context(), "k", nil)
	require.NoError(t, err)
	assert.Greater(t, second, first)

	e, err := b.Get(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, kv.Entry[[]byte]{Key: "k", CreateRevision: first, ModRevision: second, Version: 2}, e)
	assert.Equal(t, "v", string(value), "the caller's bytes are left alone")
}

func TestCreate_WritesOnlyAbsentKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var rev int64
	b.costs(t, rpc("KV/Txn", 1), func() {
		var err error
		rev, err = b.Create(t.Context(), "k", []byte("first"))
		require.NoError(t, err)
	})
	e, err := b.Get(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, rev, e.CreateRevision)

	b.costs(t, rpc("KV/Txn", 1), func() {
		got, err := b.Create(t.Context(), "k", []byte("second"))
		require.ErrorIs(t, err, kv.ErrExists)
		require.NotErrorIs(t, err, kv.ErrConflict)
		require.EqualError(t, err, `kv: create "`+b.dir+`k": key exists`)
		assert.Zero(t, got)
	})
	assert.Equal(t, "first", b.value(t, "k"))
}

func TestReplace_WritesOnlyOverGivenRevision(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	read := b.put(t, "k", "read")
	var mine int64
	b.costs(t, rpc("KV/Txn", 1), func() {
		var err error
		mine, err = b.Replace(t.Context(), "k", []byte("mine"), read)
		require.NoError(t, err)
	})
	e, err := b.Get(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, mine, e.ModRevision)

	b.costs(t, rpc("KV/Txn", 1), func() {
		_, err := b.Replace(t.Context(), "k", []byte("late"), read)
		conflict(t, err, "k", read, mine)
		assert.ErrorContains(t, err, `kv: replace "`+b.dir+`k": changed meanwhile: wanted revision`)
	})
	assert.Equal(t, "mine", b.value(t, "k"))

	b.remove(t, "k")
	_, err = b.Replace(t.Context(), "k", []byte("late"), mine)
	conflict(t, err, "k", mine, 0)
	require.ErrorContains(t, err, "does not exist")
	_, err = b.Replace(t.Context(), "never", []byte("late"), mine)
	conflict(t, err, "never", mine, 0)
}

// The version starts again when a key is recreated, so comparing versions would not notice the new
// key.
func TestReplace_RecreatedKeyIsConflict(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	writes := map[string]func(e kv.Entry[[]byte]) error{
		"Replace": func(e kv.Entry[[]byte]) error {
			_, err := b.Replace(t.Context(), e.Key, []byte("late"), e.ModRevision)
			return err
		},
		"DeleteAt": func(e kv.Entry[[]byte]) error { _, err := b.DeleteAt(t.Context(), e.Key, e.ModRevision); return err },
	}
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.put(t, name, "same")
			read, err := b.Get(t.Context(), name)
			require.NoError(t, err)
			b.remove(t, name)
			again := b.put(t, name, "same")
			now, err := b.Get(t.Context(), name)
			require.NoError(t, err)
			require.Equal(t, read.Version, now.Version)
			require.Equal(t, read.Value, now.Value)

			conflict(t, write(read), name, read.ModRevision, again)
			assert.Equal(t, "same", b.value(t, name))
		})
	}
}

func TestCompareAndSwap_ComparesValue(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "old")
	var swapped int64
	b.costs(t, rpc("KV/Txn", 1), func() {
		var err error
		swapped, err = b.CompareAndSwap(t.Context(), "k", []byte("old"), []byte("new"))
		require.NoError(t, err)
	})
	assert.Equal(t, "new", b.value(t, "k"))

	_, err := b.CompareAndSwap(t.Context(), "k", []byte("old"), []byte("newer"))
	conflict(t, err, "k", 0, swapped)
	_, err = b.CompareAndSwap(t.Context(), "k", nil, []byte("newer"))
	conflict(t, err, "k", 0, swapped)
	_, err = b.CompareAndSwap(t.Context(), "absent", nil, []byte("x"))
	conflict(t, err, "absent", 0, 0)
	b.put(t, "empty", "")
	_, err = b.CompareAndSwap(t.Context(), "empty", nil, []byte("x"))
	require.NoError(t, err, "nil is the empty value")
	assert.Equal(t, "new", b.value(t, "k"))
	assert.Equal(t, "<none>", b.value(t, "absent"))
}

func TestPut_DetachesLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lease := b.lease(t)
	b.put(t, "put", "x", clientv3.WithLease(lease))
	_, err := b.Put(t.Context(), "put", []byte("y"))
	require.NoError(t, err)
	assert.Zero(t, b.leaseOf(t, "put"))

	rev := b.put(t, "replace", "x", clientv3.WithLease(lease))
	_, err = b.Replace(t.Context(), "replace", []byte("y"), rev)
	require.NoError(t, err)
	assert.Zero(t, b.leaseOf(t, "replace"))
}

func TestWithSameLease_KeepsLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lease := b.lease(t)
	b.put(t, "put", "x", clientv3.WithLease(lease))
	b.costs(t, rpc("KV/Txn", 1), func() {
		_, err := b.Put(t.Context(), "put", []byte("y"), kv.WithSameLease())
		require.NoError(t, err)
	})
	assert.Equal(t, lease, b.leaseOf(t, "put"))
	assert.Equal(t, "y", b.value(t, "put"))

	rev := b.put(t, "replace", "x", clientv3.WithLease(lease))
	_, err := b.Replace(t.Context(), "replace", []byte("y"), rev, kv.WithSameLease())
	require.NoError(t, err)
	assert.Equal(t, lease, b.leaseOf(t, "replace"))

	b.put(t, "free", "x")
	_, err = b.Put(t.Context(), "free", []byte("y"), kv.WithSameLease())
	require.NoError(t, err)
	assert.Zero(t, b.leaseOf(t, "free"), "it had none to keep")

	_, err = b.Put(t.Context(), "absent", []byte("new"), kv.WithSameLease())
	require.NoError(t, err)
	assert.Equal(t, "new", b.value(t, "absent"))
	_, err = b.Create(t.Context(), "created", []byte("new"), kv.WithSameLease())
	require.NoError(t, err)
	assert.Equal(t, "new", b.value(t, "created"))
	_, err = b.Create(t.Context(), "created", []byte("newer"), kv.WithSameLease())
	require.ErrorIs(t, err, kv.ErrExists)
}

func TestWithLease_AttachesKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lease := b.lease(t)
	b.costs(t, rpc("KV/Put", 1), func() {
		_, err := b.Put(t.Context(), "k", []byte("x"), kv.WithLease(lease))
		require.NoError(t, err)
	})
	_, err := b.Create(t.Context(), "k2", []byte("x"), kv.WithLease(lease))
	require.NoError(t, err)
	assert.Equal(t, lease, b.leaseOf(t, "k"))
	_, err = b.raw.Revoke(t.Context(), lease)
	require.NoError(t, err)
	assert.Equal(t, "<none>", b.value(t, "k"))
	assert.Equal(t, "<none>", b.value(t, "k2"))

	for name, write := range map[string]func() error{
		"a put":       func() error { _, err := b.Put(t.Context(), "k", nil, kv.WithLease(lease)); return err },
		"a create":    func() error { _, err := b.Create(t.Context(), "k", nil, kv.WithLease(lease)); return err },
		"a batch":     func() error { _, err := b.Batch(t.Context(), kv.OpPut("k", nil, kv.WithLease(lease))); return err },
		"a put, once": func() error { _, err := b.Put(t.Context(), "k", nil, kv.WithLease(lease), kv.WithOnce()); return err },
	} {
		err := write()
		require.ErrorIs(t, err, errs.LeaseNotFound, name)
		assert.True(t, errs.NotApplied(err), "%s: %v", name, err)
		assert.Equal(t, "<none>", b.value(t, "k"), name)
	}
}

func TestWithTTL_KeyExpires(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.costs(t, map[string]int{"Lease/LeaseGrant": 1, "KV/Put": 1}, func() {
		_, err := b.Put(t.Context(), "k", []byte("x"), kv.WithTTL(30*time.Second+time.Millisecond))
		require.NoError(t, err)
	})
	id := b.leaseOf(t, "k")
	require.NotZero(t, id)
	ttl, err := b.raw.TimeToLive(t.Context(), id)
	require.NoError(t, err)
	assert.EqualValues(t, 31, ttl.GrantedTTL, "rounded up")

	events := b.raw.Watch(t.Context(), b.dir+"short")
	_, err = b.Create(t.Context(), "short", []byte("x"), kv.WithTTL(time.Second))
	require.NoError(t, err)
	var kinds []string
	for r := range events {
		for _, e := range r.Events {
			kinds = append(kinds, e.Type.String())
		}
		if len(kinds) == 2 {
			break
		}
	}
	assert.Equal(t, []string{"PUT", "DELETE"}, kinds)
}

func TestWithTTL_FailedPutRevokesLease(t *testing.T) {
	t.Parallel()
	b := privateBench(t, etcdtest.Start(t), kv.WithLimits(kv.Limits{RequestBytes: 1 << 20 * 8}))
	rev := b.put(t, "k", "x")
	lost := kv.NewGuard(errOwner, clientv3.Compare(clientv3.ModRevision(b.dir+"k"), "=", rev+1))
	ttl := kv.WithTTL(10 * time.Second)
	for name, write := range map[string]func() error{
		"create of a key that exists": func() error { _, err := b.Create(t.Context(), "k", nil, ttl); return err },
		"replace of another revision": func() error { _, err := b.Replace(t.Context(), "k", nil, rev+1, ttl); return err },
		"a guard that does not hold":  func() error { _, err := b.Put(t.Context(), "k", nil, ttl, kv.WithGuard(lost)); return err },
		"too large for the server":    func() error { _, err := b.Put(t.Context(), "k", make([]byte, 1<<20*3/2+1), ttl); return err },
		"a batch whose guard fails": func() error {
			_, err := b.Batch(t.Context(), kv.OpPut("a", nil, ttl, kv.WithGuard(lost)), kv.OpPut("b", nil, kv.WithTTL(20*time.Second), kv.WithGuard(lost)))
			return err
		},
	} {
		require.Error(t, write(), name)
		leases, err := b.raw.Leases(t.Context())
		require.NoError(t, err)
		assert.Empty(t, leases.Leases, name)
		assert.Equal(t, "x", b.value(t, "k"), name)
	}
	b.costs(t, map[string]int{"Lease/LeaseGrant": 1, "KV/Txn": 1, "Lease/LeaseRevoke": 1}, func() {
		_, err := b.Create(t.Context(), "k", nil, ttl)
		require.ErrorIs(t, err, kv.ErrExists)
	})
}
