package kv_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

var errOwner = errors.New("the lock was lost")

// hold puts a key outside of every namespace and returns a guard that holds as long as it is not
// touched.
func hold(tb testing.TB, b bench, lost error) (g kv.Guard, lose func()) {
	tb.Helper()
	key := etcdtest.Prefix(tb) + "lock"
	r, err := b.raw.Put(tb.Context(), key, "held")
	require.NoError(tb, err)
	g = kv.NewGuard(lost, clientv3.Compare(clientv3.CreateRevision(key), "=", r.Header.GetRevision()))
	return g, func() {
		_, err := b.raw.Delete(tb.Context(), key)
		require.NoError(tb, err)
	}
}

// guarded is every kind of write with a guard, each on a key of its name that exists, at the
// revision given.
func guarded(t *testing.T, b bench, g ...kv.Guarded) map[string]func(key string, rev int64) error {
	with := kv.WithGuard(g...)
	ctx := t.Context()
	write := func(kv.Entry[[]byte]) ([]byte, error) { return []byte("new"), nil }
	return map[string]func(key string, rev int64) error{
		"put": func(key string, _ int64) error { _, err := b.Put(ctx, key, []byte("new"), with); return err },
		"put, same lease": func(key string, _ int64) error {
			_, err := b.Put(ctx, key, []byte("new"), with, kv.WithSameLease())
			return err
		},
		"put, once": func(key string, _ int64) error {
			_, err := b.Put(ctx, key, []byte("new"), with, kv.WithOnce())
			return err
		},
		"replace": func(key string, rev int64) error { _, err := b.Replace(ctx, key, []byte("new"), rev, with); return err },
		"replace, once": func(key string, rev int64) error {
			_, err := b.Replace(ctx, key, []byte("new"), rev, with, kv.WithOnce())
			return err
		},
		"update":       func(key string, _ int64) error { _, err := b.Update(ctx, key, write, with); return err },
		"update, once": func(key string, _ int64) error { _, err := b.Update(ctx, key, write, with, kv.WithOnce()); return err },
		"delete":       func(key string, _ int64) error { _, err := b.Delete(ctx, key, with); return err },
		"delete, once": func(key string, _ int64) error { _, err := b.Delete(ctx, key, with, kv.WithOnce()); return err },
		"delete at":    func(key string, rev int64) error { _, err := b.DeleteAt(ctx, key, rev, with); return err },
		"delete prefix": func(key string, _ int64) error {
			_, _, err := b.DeletePrefix(ctx, key, with, kv.WithPartialPrefix())
			return err
		},
		"create": func(key string, _ int64) error {
			_, err := b.Create(ctx, key+"/created", []byte("new"), with)
			return err
		},
		"batch": func(key string, _ int64) error {
			_, err := b.Batch(ctx, kv.OpPut(key, []byte("new"), with), kv.OpDelete(key+"/other", with))
			return err
		},
		"txn": func(key string, _ int64) error {
			_, err := b.Txn(ctx).Guard(g...).Then(clientv3.OpPut(key, "new")).Commit()
			return err
		},
		"txn, else": func(key string, _ int64) error {
			never := clientv3.Compare(clientv3.Version(key), ">", 1000)
			_, err := b.Txn(ctx).Guard(g...).If(never).Else(clientv3.OpPut(key, "new")).Commit()
			return err
		},
		"checkpoint": func(key string, _ int64) error { return kv.NewCheckpoint(b.Store, key, with).Save(ctx, 7) },
	}
}

// absoluteKey is all that is under a key and below it.
func (b bench) absoluteKey(t *testing.T, key string) (all []string) {
	t.Helper()
	r, err := b.raw.Get(t.Context(), b.dir+key, clientv3.WithPrefix())
	require.NoError(t, err)
	for _, one := range r.Kvs {
		all = append(all, string(one.GetKey())+"="+string(one.GetValue()))
	}
	return all
}

func TestWithGuard_AppliesWriteWhileGuardHolds(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one, _ := hold(t, b, errOwner)
	two, _ := hold(t, b, errNoMore)
	for name, write := range guarded(t, b, one, two, kv.Guard{}) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := name + ";" // not the beginning of another
			rev := b.put(t, key, "old")
			require.NoError(t, write(key, rev))
			assert.NotEqual(t, []string{b.dir + key + "=old"}, b.absoluteKey(t, key))
		})
	}
}

func TestWithGuard_RejectsWriteAfterLoss(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	good, _ := hold(t, b, errNoMore)
	bad, lose := hold(t, b, errOwner)
	lose()
	for name, write := range guarded(t, b, good, bad) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := name + ";"
			rev := b.put(t, key, "old")
			err := write(key, rev)
			require.ErrorIs(t, err, kv.ErrGuard)
			require.ErrorIs(t, err, errOwner)
			require.NotErrorIs(t, err, errNoMore, "that one does hold")
			require.NotErrorIs(t, err, kv.ErrUnknownOutcome)
			assert.True(t, errs.NotApplied(err))
			assert.Equal(t, []string{b.dir + key + "=old"}, b.absoluteKey(t, key))
		})
	}
}

// The owner of a guard may have no condition of its own.
func TestWithGuard_RejectsUnconditionalWrite(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	g, lose := hold(t, b, nil)
	lose()
	for name, write := range guarded(t, b, g) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := name + ";"
			rev := b.put(t, key, "old")
			err := write(key, rev)
			require.ErrorIs(t, err, kv.ErrGuard)
			require.NotErrorIs(t, err, kv.ErrConflict)
			require.NotErrorIs(t, err, kv.ErrExists)
			assert.Equal(t, []string{b.dir + key + "=old"}, b.absoluteKey(t, key))
		})
	}
}

func TestWithGuard_ErrorMatchesAllLostOwners(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one, loseOne := hold(t, b, errOwner)
	two, loseTwo := hold(t, b, errNoMore)
	loseOne()
	loseTwo()
	_, err := b.Put(t.Context(), "k", nil, kv.WithGuard(one), kv.WithGuard(two))
	require.ErrorIs(t, err, errOwner)
	require.ErrorIs(t, err, errNoMore)
	_, err = b.Txn(t.Context()).Guard(one).Guard(two).Then(clientv3.OpPut("k", "")).Commit()
	require.ErrorIs(t, err, errOwner)
	require.ErrorIs(t, err, errNoMore)
}

func TestWithGuard_CostsNoRPC(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	g, lose := hold(t, b, errOwner)
	b.costs(t, rpc("KV/Txn", 1), func() {
		_, err := b.Put(t.Context(), "k", []byte("x"), kv.WithGuard(g))
		require.NoError(t, err)
	})
	lose()
	b.costs(t, rpc("KV/Txn", 1), func() {
		_, err := b.Put(t.Context(), "k", []byte("x"), kv.WithGuard(g))
		require.ErrorIs(t, err, kv.ErrGuard)
	})
	b.costs(t, rpc("KV/Txn", 1), func() {
		_, err := b.Delete(t.Context(), "k", kv.WithGuard(g))
		require.ErrorIs(t, err, kv.ErrGuard)
	})
}

func TestWithGuard_LossPrecedesConflict(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	g, lose := hold(t, b, errOwner)
	rev := b.put(t, "k", "x")
	_, err := b.Replace(t.Context(), "k", nil, rev-1, kv.WithGuard(g))
	conflict(t, err, "k", rev-1, rev)
	require.NotErrorIs(t, err, kv.ErrGuard, "the guard holds")
	lose()
	_, err = b.Replace(t.Context(), "k", nil, rev-1, kv.WithGuard(g))
	require.ErrorIs(t, err, kv.ErrGuard)
}

func TestUpdate_LostGuardEndsUpdate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	g, lose := hold(t, b, errOwner)
	b.put(t, "k", "x")
	calls := 0
	_, err := b.Update(t.Context(), "k", func(kv.Entry[[]byte]) ([]byte, error) {
		calls++
		lose()
		return []byte("y"), nil
	}, kv.WithGuard(g))
	require.ErrorIs(t, err, kv.ErrGuard)
	assert.Equal(t, 1, calls)
	assert.Equal(t, "x", b.value(t, "k"))
}

func TestGuard_ComparesReturnsCopy(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	cmp := clientv3.Compare(clientv3.CreateRevision(b.dir+"lock"), "=", b.put(t, "lock", "held"))
	g := kv.NewGuard(errOwner, cmp)
	cmp.WithKeyBytes([]byte("changed by its maker"))
	given := g.Compares()
	require.Len(t, given, 1)
	assert.Equal(t, b.dir+"lock", string(given[0].KeyBytes()), "absolute")

	r, err := b.raw.Txn(t.Context()).If(given...).Then(clientv3.OpPut(b.dir+"k", "raw")).Commit()
	require.NoError(t, err)
	assert.True(t, r.Succeeded, "they fit a transaction of client/v3")

	given[0].WithKeyBytes([]byte("changed by its reader"))
	_, err = b.Put(t.Context(), "k", nil, kv.WithGuard(g))
	require.NoError(t, err)
	assert.Empty(t, kv.Guard{}.Compares())
}

// A guard that cannot hold is a mistake of its maker, and no answer of etcd.
func TestWithGuard_RejectsCompareWithoutKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, cmp := range map[string]clientv3.Cmp{
		"the zero Cmp": {},
		"an empty key": clientv3.Compare(clientv3.CreateRevision(""), "=", 1),
	} {
		g := kv.NewGuard(errOwner, clientv3.Compare(clientv3.Version("a"), "=", 0), cmp)
		b.refused(t, func() error { _, err := b.Put(t.Context(), "k", nil, kv.WithGuard(g)); return err }, kv.ErrInvalid)
		_, err := b.Txn(t.Context()).Guard(g).Then(clientv3.OpPut("k", "")).Commit()
		require.ErrorIs(t, err, kv.ErrInvalid, name)
	}
}

// Txn can be made around any transaction of client/v3, which knows of no guards.
func TestTxn_GuardIsNeverIgnored(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	g, lose := hold(t, b, errOwner)
	lose()
	txn := kv.Txn{Txn: b.cli.Txn(t.Context()).Then(clientv3.OpPut(b.dir+"k", "x"))}
	_, err := txn.Guard(g).Commit()
	require.Error(t, err)
	assert.Equal(t, "<none>", b.value(t, "k"))
}
