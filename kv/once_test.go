package kv_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

const slotDir = ".etcdkit/op/"

// slots are the operation slots of the namespace, as etcd has them.
func (b bench) slots(tb testing.TB) []*mvccpb.KeyValue {
	tb.Helper()
	r, err := b.raw.Get(tb.Context(), b.dir+slotDir, clientv3.WithPrefix())
	require.NoError(tb, err)
	return r.Kvs
}

func TestWithOnce_WritesSlot(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rev, err := b.Put(t.Context(), "k", []byte("x"), kv.WithOnce())
	require.NoError(t, err)
	slots := b.slots(t)
	require.Len(t, slots, 1)
	assert.Equal(t, rev, slots[0].GetModRevision(), "in one transaction")
	require.NotZero(t, slots[0].GetLease())
	ttl, err := b.raw.TimeToLive(t.Context(), clientv3.LeaseID(slots[0].GetLease()))
	require.NoError(t, err)
	assert.EqualValues(t, 60, ttl.GrantedTTL)
}

func TestWithOnce_CostsOneGrant(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.costs(t, map[string]int{"Lease/LeaseGrant": 1, "KV/Txn": 1}, func() {
		_, err := b.Put(t.Context(), "k", []byte("x"), kv.WithOnce())
		require.NoError(t, err)
	})
	inner := b.Namespace("inner")
	b.costs(t, map[string]int{"KV/Txn": 7, "KV/Range": 1}, func() {
		rev, err := b.Put(t.Context(), "k", []byte("y"), kv.WithOnce())
		require.NoError(t, err)
		rev, err = b.Replace(t.Context(), "k", []byte("z"), rev, kv.WithOnce())
		require.NoError(t, err)
		_, err = inner.Create(t.Context(), "k", []byte("z"), kv.WithOnce())
		require.NoError(t, err)
		_, err = b.DeleteAt(t.Context(), "k", rev, kv.WithOnce())
		require.NoError(t, err)
		_, err = b.Delete(t.Context(), "k", kv.WithOnce())
		require.NoError(t, err)
		_, err = b.Update(t.Context(), "n", func(raw) ([]byte, error) { return []byte("1"), nil }, kv.WithOnce(), kv.WithUpsert())
		require.NoError(t, err)
		_, err = b.Batch(t.Context(), kv.OpPut("a", nil, kv.WithOnce()), kv.OpPut("b", nil))
		require.NoError(t, err)
	})
	assert.Len(t, b.slots(t), 1, "one operation at a time needs one slot")
	assert.Equal(t, "1", b.value(t, "n"))
}

func TestWithOnce_ReturnsSameErrors(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rev := b.put(t, "k", "x")
	once := kv.WithOnce()
	for range 2 { // with a slot that is new, and one that is not
		_, err := b.Create(t.Context(), "k", nil, once)
		require.ErrorIs(t, err, kv.ErrExists)
		_, err = b.Replace(t.Context(), "k", nil, rev-1, once)
		conflict(t, err, "k", rev-1, rev)
		_, err = b.DeleteAt(t.Context(), "absent", rev, once)
		conflict(t, err, "absent", rev, 0)
		_, err = b.Put(t.Context(), "mine", []byte("x"), once)
		require.NoError(t, err)
	}
	assert.Equal(t, "x", b.value(t, "k"))
	assert.Len(t, b.slots(t), 1)
}

func TestWithOnce_CreatesOneSlotPerConcurrentWrite(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "n", "0")
	const goroutines, each = 8, 10
	b.rpcs.Reset()
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			for range each {
				_, err := b.Update(t.Context(), "n", increment, kv.WithOnce())
				assert.NoError(t, err)
				_, err = b.Put(t.Context(), "k"+string(rune('a'+i)), nil, kv.WithOnce())
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, "80", b.value(t, "n"))
	assert.LessOrEqual(t, len(b.slots(t)), goroutines)
	assert.Equal(t, 1, b.rpcs.Count("Lease/LeaseGrant"))
}

func TestWithOnce_RecoversFromRevokedLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	writes := map[string]func() error{
		"put":    func() error { _, err := b.Put(t.Context(), "k", []byte("x"), kv.WithOnce()); return err },
		"delete": func() error { _, err := b.Delete(t.Context(), "k", kv.WithOnce()); return err },
		"update": func() error {
			_, err := b.Update(t.Context(), "k", func(raw) ([]byte, error) { return []byte("y"), nil }, kv.WithOnce(), kv.WithUpsert())
			return err
		},
		"batch": func() error { _, err := b.Batch(t.Context(), kv.OpPut("k", nil, kv.WithOnce())); return err },
	}
	for name, write := range writes {
		_, err := b.Put(t.Context(), "before", nil, kv.WithOnce())
		require.NoError(t, err)
		slots := b.slots(t)
		require.Len(t, slots, 1)
		_, err = b.raw.Revoke(t.Context(), clientv3.LeaseID(slots[0].GetLease()))
		require.NoError(t, err)

		b.rpcs.Reset()
		require.NoError(t, write(), name)
		assert.Equal(t, 1, b.rpcs.Count("Lease/LeaseGrant"), name)
		assert.Equal(t, 2, b.rpcs.Count("KV/Txn"), name)
		again := b.slots(t)
		require.Len(t, again, 1, name)
		assert.NotEqual(t, slots[0].GetLease(), again[0].GetLease(), name)
	}
}

func TestWithOnce_DoesNotOverwriteForeignSlot(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := b.Put(t.Context(), "k", []byte("1"), kv.WithOnce())
	require.NoError(t, err)
	slots := b.slots(t)
	require.Len(t, slots, 1)
	_, err = b.raw.Put(t.Context(), string(slots[0].GetKey()), "tampered with")
	require.NoError(t, err)

	rev, err := b.Put(t.Context(), "k", []byte("2"), kv.WithOnce())
	require.NoError(t, err)
	e, err := b.Get(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, rev, e.ModRevision)
	assert.EqualValues(t, 2, e.Version, "written once")
}

// The library's own keys appear in no read.
func TestStore_HidesLibraryKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, key := range []string{"a", "-", "~", ".etcdkit", ".etcdkit0"} {
		_, err := b.Put(t.Context(), key, nil, kv.WithOnce())
		require.NoError(t, err)
	}
	n, err := b.Count(t.Context(), "")
	require.NoError(t, err)
	assert.EqualValues(t, 5, n)
	assert.Equal(t, [][]string{{"-", ".etcdkit", ".etcdkit0"}, {"a", "~"}}, readPages(t, b.Store, "", 3))
	deleted, _, err := b.DeletePrefix(t.Context(), ".etcd", kv.WithPartialPrefix())
	require.NoError(t, err)
	assert.EqualValues(t, 2, deleted)
	deleted, _, err = b.DeletePrefix(t.Context(), "")
	require.NoError(t, err)
	assert.EqualValues(t, 3, deleted)
	require.Len(t, b.slots(t), 1)

	e, err := b.Get(t.Context(), strings.TrimPrefix(string(b.slots(t)[0].GetKey()), b.dir))
	require.NoError(t, err, "whoever names one may read it")
	assert.NotZero(t, e.Lease)
}

func TestStore_RejectsWritesToLibraryKeys(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	_, err := b.Put(t.Context(), "k", nil, kv.WithOnce())
	require.NoError(t, err)
	before := b.slots(t)[0].String()
	nothing := func(raw) ([]byte, error) { return nil, nil }
	const key = ".etcdkit/op/x"
	for name, write := range map[string]func() error{ //nolint:paralleltest // as above
		"put":                func() error { _, err := b.Put(t.Context(), key, nil); return err },
		"create":             func() error { _, err := b.Create(t.Context(), key, nil); return err },
		"replace":            func() error { _, err := b.Replace(t.Context(), key, nil, 1); return err },
		"compare and swap":   func() error { _, err := b.CompareAndSwap(t.Context(), key, nil, nil); return err },
		"delete":             func() error { _, err := b.Delete(t.Context(), key); return err },
		"delete at":          func() error { _, err := b.DeleteAt(t.Context(), key, 1); return err },
		"compare and delete": func() error { _, err := b.CompareAndDelete(t.Context(), key, nil); return err },
		"delete prefix":      func() error { _, _, err := b.DeletePrefix(t.Context(), ".etcdkit/op/"); return err },
		"update":             func() error { _, err := b.Update(t.Context(), key, nothing, kv.WithUpsert()); return err },
		"batch":              func() error { _, err := b.Batch(t.Context(), kv.OpDelete(key)); return err },
		"txn":                func() error { _, err := b.Txn(t.Context()).Then(clientv3.OpDelete(key)).Commit(); return err },
		"checkpoint":         func() error { return kv.NewCheckpoint(b.Store, key).Save(t.Context(), 1) },
		"typed":              func() error { _, err := kv.NewTyped(b.Store, "", kv.Bytes()).Put(t.Context(), key, nil); return err },
		"txn over a range": func() error {
			_, err := b.Txn(t.Context()).Then(clientv3.OpDelete(".", clientv3.WithPrefix())).Commit()
			return err
		},
		"through a nested namespace": func() error { _, err := b.Namespace(".etcdkit").Put(t.Context(), "op/x", nil); return err },
		"through a typed dir": func() error {
			_, err := kv.NewTyped(b.Store, ".etcdkit/op", kv.Bytes()).Delete(t.Context(), "x")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { b.refused(t, write, kv.ErrInvalid) })
	}
	after := b.slots(t)
	require.Len(t, after, 1)
	assert.Equal(t, before, after[0].String())
	assert.True(t, errs.NotApplied(func() error { _, err := b.Put(t.Context(), key, nil); return err }()))
}
