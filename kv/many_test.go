package kv_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestGetMany_ReadsOneRevision(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ops, keys := make([]kv.Op, 300), make([]string, 300)
	for i := range ops {
		keys[i] = fmt.Sprintf("k/%03d", i)
		ops[i] = kv.OpPut(keys[i], []byte(keys[i]))
	}
	at, err := b.Batch(t.Context(), ops...)
	require.NoError(t, err)
	b.costs(t, rpc("KV/Txn", 3), func() {
		got, rev, err := b.GetMany(t.Context(), slices.Concat(keys, []string{"absent", keys[0]})...)
		require.NoError(t, err)
		assert.GreaterOrEqual(t, rev, at)
		assert.Len(t, got, 300)
		assert.Equal(t, keys[7], string(got[keys[7]].Value))
	})
	b.costs(t, none(), func() {
		got, rev, err := b.GetMany(t.Context())
		require.NoError(t, err)
		assert.Empty(t, got)
		assert.Zero(t, rev)
	})
	b.refused(t, func() error { _, _, err := b.GetMany(t.Context(), "a", ""); return err }, kv.ErrInvalid)

	typed := kv.NewTyped(b.Store, "k", kv.String())
	texts, _, err := typed.GetMany(t.Context(), "001", "002", "none")
	require.NoError(t, err)
	assert.Len(t, texts, 2)
	assert.Equal(t, "k/001", texts["001"].Value)
	_, _, err = kv.NewTyped(b.Store, "k", kv.JSON[int]()).GetMany(t.Context(), "001")
	require.ErrorIs(t, err, kv.ErrDecode)
	skip := kv.WithBadEntry(func(string, int64, error) error { return nil })
	none, _, err := kv.NewTyped(b.Store, "k", kv.JSON[int](), skip).GetMany(t.Context(), "001")
	require.NoError(t, err)
	assert.Empty(t, none)
}

// fakeTxnKV has each transaction sent by a function, which is passed how to send it.
type fakeTxnKV struct {
	pb.KVClient

	intercept func(send sendTxn) (*pb.TxnResponse, error)
}

// sendTxn sends a transaction.
type sendTxn = func() (*pb.TxnResponse, error)

// Txn sends a transaction.
func (f *fakeTxnKV) Txn(ctx context.Context, in *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	return f.intercept(func() (*pb.TxnResponse, error) { return f.KVClient.Txn(ctx, in, opts...) })
}

// newTxnBench returns a bench whose transactions are intercepted.
func newTxnBench(t *testing.T, over func(testing.TB, ...func(*clientv3.Config)) *clientv3.Client, intercept func(b bench, send sendTxn) (*pb.TxnResponse, error), opts ...kv.Option) (b bench) {
	t.Helper()
	rpcs := etcdtest.Counter(t)
	cli := over(t, rpcs.Option)
	cli.KV = clientv3.NewKVFromKVClient(&fakeTxnKV{clientv3.RetryKVClient(cli), func(send sendTxn) (*pb.TxnResponse, error) {
		return intercept(b, send)
	}}, cli)
	b = benchOver(t, rpcs, cli, over(t), opts...)
	return b
}

// Keys that take several requests are read at the revision of the first one, although another
// client writes them in between.
func TestGetMany_RequestsReadOneRevision(t *testing.T) {
	t.Parallel()
	keys := []string{"a", "b", "c", "d"}
	putAll := func(t *testing.T, b bench, value string) (rev int64) {
		t.Helper()
		for _, key := range keys {
			rev = b.put(t, key, value)
		}
		return rev
	}
	values := func(got map[string]kv.Entry[[]byte]) string {
		var all strings.Builder
		for _, key := range keys {
			all.WriteString(string(got[key].Value) + " ")
		}
		return all.String()
	}
	// over returns a bench where f is called after the n-th transaction has been answered.
	over := func(t *testing.T, how func(testing.TB, ...func(*clientv3.Config)) *clientv3.Client, f func(b bench, n int)) (b bench, sent *int) {
		t.Helper()
		sent = new(int)
		return newTxnBench(t, how, func(b bench, send sendTxn) (*pb.TxnResponse, error) {
			r, err := send()
			*sent++
			f(b, *sent)
			return r, err
		}, kv.WithLimits(kv.Limits{TxnOps: 2})), sent
	}
	overwrite := func(t *testing.T) func(b bench, n int) {
		t.Helper()
		return func(b bench, n int) {
			if n == 1 {
				putAll(t, b, "new")
			}
		}
	}
	t.Run("of the store", func(t *testing.T) {
		t.Parallel()
		b, sent := over(t, etcdtest.Client, overwrite(t))
		at := putAll(t, b, "old")
		got, rev, err := b.GetMany(t.Context(), keys...)
		require.NoError(t, err)
		assert.Equal(t, "old old old old ", values(got))
		assert.GreaterOrEqual(t, rev, at)
		e, err := b.GetAsOf(t.Context(), "d", rev)
		require.NoError(t, err)
		assert.Equal(t, "old", string(e.Value), "the returned revision is that of the values")
		assert.Equal(t, 2, *sent)
		assert.Equal(t, "new", b.value(t, "d"))
	})
	t.Run("in a transaction", func(t *testing.T) {
		t.Parallel()
		b, sent := over(t, etcdtest.Client, overwrite(t))
		putAll(t, b, "old")
		_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
			got, err := tx.GetMany(keys...)
			assert.Equal(t, "old old old old ", values(got))
			return err
		})
		require.NoError(t, err)
		assert.Equal(t, 2, *sent)
	})
	t.Run("after a compaction", func(t *testing.T) {
		t.Parallel()
		srv := etcdtest.Start(t)
		b, sent := over(t, srv.Client, func(b bench, n int) {
			if n == 1 {
				putAll(t, b, "new")
				srv.Compact(0)
			}
		})
		putAll(t, b, "old")
		got, _, err := b.GetMany(t.Context(), keys...)
		require.NoError(t, err)
		assert.Equal(t, "new new new new ", values(got))
		assert.Equal(t, 4, *sent, "the second request of the first attempt was refused")
	})
	t.Run("after three compactions", func(t *testing.T) {
		t.Parallel()
		srv := etcdtest.Start(t)
		b, sent := over(t, srv.Client, func(b bench, _ int) {
			putAll(t, b, "new")
			srv.Compact(0)
		})
		putAll(t, b, "old")
		_, _, err := b.GetMany(t.Context(), keys...)
		require.ErrorIs(t, err, kv.ErrCompacted)
		assert.Equal(t, 6, *sent)
	})
}

func TestTyped_ExistsCountKeysDecode(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	users := kv.NewTyped(b.Store, "users", kv.JSON[user]())
	b.put(t, "users/42", `{"name":"Ada"}`)
	b.put(t, "users/43", `{`)
	b.put(t, "users2/1", ``)
	there, err := users.Exists(t.Context(), "42")
	require.NoError(t, err)
	assert.True(t, there)
	n, err := users.Count(t.Context())
	require.NoError(t, err)
	assert.EqualValues(t, 2, n)
	var keys []string
	for key, err := range users.Keys(t.Context(), kv.WithReverse()) {
		require.NoError(t, err)
		keys = append(keys, key)
	}
	assert.Equal(t, []string{"43", "42"}, keys)

	r, err := b.Txn(t.Context()).Then(clientv3.OpGet("users/", clientv3.WithPrefix()), clientv3.OpGet("users2/1")).Commit()
	require.NoError(t, err)
	kvs := r.Responses[0].GetResponseRange().Kvs
	e, err := users.Decode(kvs[0])
	require.NoError(t, err)
	want, err := users.Get(t.Context(), "42")
	require.NoError(t, err)
	assert.Equal(t, want, e)
	_, err = users.Decode(kvs[1])
	require.ErrorIs(t, err, kv.ErrDecode)
	_, err = users.Decode(r.Responses[1].GetResponseRange().Kvs[0])
	require.ErrorIs(t, err, kv.ErrInvalid)
	_, err = users.Decode(nil)
	require.ErrorIs(t, err, kv.ErrInvalid)
}

func TestTouch_AttachesNewLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lease := b.lease(t)
	before := b.put(t, "k", "value", clientv3.WithLease(lease))
	b.costs(t, map[string]int{"Lease/LeaseGrant": 1, "KV/Txn": 1}, func() {
		rev, err := b.Touch(t.Context(), "k", time.Minute)
		require.NoError(t, err)
		e, err := b.raw.Get(t.Context(), b.dir+"k")
		require.NoError(t, err)
		assert.Equal(t, rev, e.Kvs[0].GetModRevision())
		assert.Greater(t, rev, before)
		assert.Equal(t, "value", string(e.Kvs[0].GetValue()))
		assert.NotEqual(t, int64(lease), e.Kvs[0].GetLease())
		assert.NotZero(t, e.Kvs[0].GetLease())
	})
	_, err := b.Touch(t.Context(), "k", time.Hour, kv.WithOnce())
	require.NoError(t, err)
	b.costs(t, rpc("KV/Txn", 1), func() {
		_, err := b.Touch(t.Context(), "k", time.Hour)
		require.NoError(t, err, "a shared lease")
	})
	_, err = b.Touch(t.Context(), "absent", time.Minute)
	require.ErrorIs(t, err, kv.ErrNotFound)
	assert.Equal(t, "<none>", b.value(t, "absent"))
	b.refused(t, func() error { return errOf(b.Touch(t.Context(), "k", 0)) }, kv.ErrInvalid)
	b.refused(t, func() error { return errOf(b.Touch(t.Context(), "", time.Minute)) }, kv.ErrInvalid)
	lost := kv.NewGuard(nil, clientv3.Compare(clientv3.CreateRevision(b.dir+"held"), ">", 0))
	_, err = b.Touch(t.Context(), "k", time.Minute, kv.WithGuard(lost))
	require.ErrorIs(t, err, kv.ErrGuard)
}

func TestWithReadRevision_StoresRevision(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 3 {
		b.put(t, fmt.Sprintf("d/%d", i), "")
	}
	var rev int64
	for e, err := range b.List(t.Context(), "d/", kv.WithReadRevision(&rev)) {
		require.NoError(t, err)
		assert.GreaterOrEqual(t, rev, e.ModRevision, "known before the first entry")
	}
	var limited, empty int64
	_, err := b.Map(t.Context(), "d/", kv.WithLimit(1), kv.WithReadRevision(&limited))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, limited, rev)
	_, err = b.Map(t.Context(), "none/", kv.WithReadRevision(&empty))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, empty, limited)
	var past int64
	_, err = b.Map(t.Context(), "d/", kv.WithRevision(rev-1), kv.WithReadRevision(&past))
	require.NoError(t, err)
	assert.Equal(t, rev-1, past)
	b.refused(t, func() error { _, err := b.Map(t.Context(), "d/", kv.WithReadRevision(nil)); return err }, kv.ErrInvalid)
}

func TestUpdate_TakesLeaseOptions(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lease := b.lease(t)
	update := func(key string, o ...kv.UpdateOption) raw {
		t.Helper()
		e, err := b.Update(t.Context(), key, func(raw) ([]byte, error) { return []byte("v"), nil }, append(o, kv.WithUpsert())...)
		require.NoError(t, err)
		assert.Equal(t, b.leaseOf(t, key), e.Lease)
		return e
	}
	assert.Equal(t, lease, update("k", kv.WithLease(lease)).Lease)
	assert.Equal(t, lease, update("k").Lease, "kept")
	assert.Equal(t, lease, update("k", kv.WithSameLease()).Lease)
	b.rpcs.Reset()
	other := update("k", kv.WithTTL(time.Minute)).Lease
	assert.NotEqual(t, lease, other)
	assert.Equal(t, map[string]int{"KV/Range": 1, "KV/Txn": 1, "Lease/LeaseGrant": 1}, b.rpcs.Counts())
	assert.Zero(t, update("k", kv.WithoutLease()).Lease)
	shared := update("k", kv.WithTTL(time.Hour)).Lease
	assert.Equal(t, shared, update("new", kv.WithTTL(time.Hour)).Lease)
	_, err := b.raw.Revoke(t.Context(), shared)
	require.NoError(t, err)
	assert.NotEqual(t, shared, update("k", kv.WithTTL(time.Hour)).Lease, "a revoked lease is replaced")
	b.refused(t, func() error {
		_, err := b.Update(t.Context(), "k", increment, kv.WithoutLease(), kv.WithTTL(time.Minute))
		return err
	}, kv.ErrInvalid)
	_, err = b.Update(t.Context(), "k", increment, kv.WithLease(12345))
	require.Error(t, err)
	b.costs(t, rpc("KV/Range", 1), func() {
		_, err := b.Update(t.Context(), "k", func(raw) ([]byte, error) { return nil, errFunds }, kv.WithTTL(time.Minute))
		require.ErrorIs(t, err, errFunds, "no lease is granted before the function has agreed")
	})
}

func TestUpdate_SkipsEqualValuesOnRequest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	at := b.put(t, "k", "v")
	same := func(cur raw) ([]byte, error) { return cur.Value, nil }
	b.costs(t, rpc("KV/Range", 1), func() {
		e, err := b.Update(t.Context(), "k", same, kv.WithSkipEqual())
		require.NoError(t, err)
		assert.Equal(t, at, e.ModRevision)
		assert.Equal(t, "v", string(e.Value))
	})
	e, err := b.Update(t.Context(), "k", same)
	require.NoError(t, err)
	assert.Greater(t, e.ModRevision, at)
	b.put(t, "typed", `{ "name": "Ada" }`)
	users := kv.NewTyped(b.Store, "", kv.JSON[user]())
	written := 0
	users = users.OnWrite(func(_ context.Context, _ string, _ int64) { written++ })
	b.costs(t, rpc("KV/Range", 1), func() {
		e, err := users.Update(t.Context(), "typed", func(u *user) error { u.Name = "Ada"; return nil }, kv.WithSkipEqual())
		require.NoError(t, err)
		assert.Equal(t, "Ada", e.Value.Name)
	})
	assert.Zero(t, written)
	u, err := users.Update(t.Context(), "new", func(*user) error { return nil }, kv.WithSkipEqual(), kv.WithUpsert())
	require.NoError(t, err)
	assert.NotZero(t, u.ModRevision, "an absent key is not equal to anything")
}

func TestCompareAndSwap_TakesOptions(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lease := b.lease(t)
	b.put(t, "k", "1", clientv3.WithLease(lease))
	_, err := b.CompareAndSwap(t.Context(), "k", []byte("1"), []byte("2"), kv.WithOnce())
	require.NoError(t, err)
	assert.Equal(t, lease, b.leaseOf(t, "k"), "kept")
	_, err = b.CompareAndSwap(t.Context(), "k", []byte("2"), []byte("3"), kv.WithTTL(time.Minute))
	require.NoError(t, err)
	assert.NotEqual(t, lease, b.leaseOf(t, "k"))
	lost := kv.NewGuard(nil, clientv3.Compare(clientv3.CreateRevision(b.dir+"held"), ">", 0))
	_, err = b.CompareAndSwap(t.Context(), "k", []byte("3"), []byte("4"), kv.WithGuard(lost))
	require.ErrorIs(t, err, kv.ErrGuard)
	_, err = b.CompareAndDelete(t.Context(), "k", []byte("3"), kv.WithGuard(lost))
	require.ErrorIs(t, err, kv.ErrGuard)
	_, err = b.CompareAndDelete(t.Context(), "k", []byte("3"), kv.WithOnce())
	require.NoError(t, err)
}

func TestTyped_OpPutInBatch(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	told := map[string]int64{}
	users := kv.NewTyped(b.Store, "users", kv.JSON[user]()).OnWrite(func(_ context.Context, key string, rev int64) { told[key] = rev })
	deep := kv.NewTyped(b.Namespace("a/b"), "c", kv.String())
	rev, err := b.Batch(t.Context(), users.OpPut("42", user{Name: "Ada"}), deep.OpPut("k", "v"), kv.OpPut("plain", nil), users.OpDelete("43"))
	require.NoError(t, err)
	assert.Equal(t, map[string]int64{"42": rev, "43": 0}, told)
	assert.JSONEq(t, `{"name":"Ada"}`, b.value(t, "users/42"))
	assert.Equal(t, "v", b.value(t, "a/b/c/k"))
	_, err = b.Namespace("a").Batch(t.Context(), deep.OpPut("k", "w"))
	require.NoError(t, err)
	assert.Equal(t, "w", b.value(t, "a/b/c/k"))
	for name, op := range map[string]kv.Op{
		"not below":     users.OpPut("42", user{}),
		"another store": kv.NewTyped(b.open(), "a", kv.String()).OpPut("k", "v"),
		"unencodable":   kv.NewTyped(b.Namespace("a"), "d", kv.JSON[chan int]()).OpPut("k", nil),
		"empty key":     deep.OpPut("", "v"),
		"bad dir":       kv.NewTyped(b.Namespace("a"), "//", kv.String()).OpPut("k", "v"),
	} {
		b.refused(t, func() error { return errOf(b.Namespace("a").Batch(t.Context(), op)) }, kv.ErrInvalid)
		t.Log(name, errOf(b.Namespace("a").Batch(t.Context(), op)))
	}
}
