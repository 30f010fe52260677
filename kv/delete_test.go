package kv_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestDelete_ReturnsRevision(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	put := b.put(t, "k", "x")
	var rev int64
	b.costs(t, rpc("KV/DeleteRange", 1), func() {
		var err error
		rev, err = b.Delete(t.Context(), "k")
		require.NoError(t, err)
	})
	assert.Equal(t, "<none>", b.value(t, "k"))
	_, err := b.GetAsOf(t.Context(), "k", rev)
	require.ErrorIs(t, err, kv.ErrNotFound)
	e, err := b.GetAsOf(t.Context(), "k", rev-1)
	require.NoError(t, err)
	assert.Equal(t, put, e.ModRevision)
}

func TestDelete_AbsentKeyIsNoError(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, o := range map[string][]kv.DeleteOption{"plain": nil, "guarded": {kv.WithGuard(kv.Guard{})}, "once": {kv.WithOnce()}} {
		rev, err := b.Delete(t.Context(), "absent", o...)
		require.NoError(t, err, name)
		assert.Zero(t, rev, name)
		n, rev, err := b.DeletePrefix(t.Context(), "absent/", o...)
		require.NoError(t, err, name)
		assert.Zero(t, n, name)
		assert.Zero(t, rev, name)
	}
}

func TestDeleteAt_DeletesOnlyGivenRevision(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	read := b.put(t, "k", "read")
	now := b.put(t, "k", "changed")
	b.costs(t, rpc("KV/Txn", 1), func() {
		_, err := b.DeleteAt(t.Context(), "k", read)
		conflict(t, err, "k", read, now)
	})
	assert.Equal(t, "changed", b.value(t, "k"))
	var rev int64
	b.costs(t, rpc("KV/Txn", 1), func() {
		var err error
		rev, err = b.DeleteAt(t.Context(), "k", now)
		require.NoError(t, err)
	})
	_, err := b.GetAsOf(t.Context(), "k", rev)
	require.ErrorIs(t, err, kv.ErrNotFound)
	_, err = b.DeleteAt(t.Context(), "k", now)
	conflict(t, err, "k", now, 0)
}

func TestCompareAndDelete_ComparesValue(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rev := b.put(t, "k", "old")
	_, err := b.CompareAndDelete(t.Context(), "k", []byte("other"))
	conflict(t, err, "k", 0, rev)
	_, err = b.CompareAndDelete(t.Context(), "absent", nil)
	conflict(t, err, "absent", 0, 0)
	b.costs(t, rpc("KV/Txn", 1), func() {
		gone, err := b.CompareAndDelete(t.Context(), "k", []byte("old"))
		require.NoError(t, err)
		assert.Greater(t, gone, rev)
	})
	assert.Equal(t, "<none>", b.value(t, "k"))
}

func TestDeletePrefix_StopsAtSlash(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, key := range []string{"a", "a/", "a/1", "a/b/2", "a/\xff\xff", "a0", "ab/3", "a.", "b"} {
		b.put(t, key, "x")
	}
	b.refused(t, func() error { _, _, err := b.DeletePrefix(t.Context(), "a"); return err }, kv.ErrInvalid)
	_, _, err := b.DeletePrefix(t.Context(), "a")
	require.ErrorContains(t, err, `did you mean "a/"`)

	var rev int64
	b.costs(t, rpc("KV/DeleteRange", 1), func() {
		n, at, err := b.DeletePrefix(t.Context(), "a/")
		require.NoError(t, err)
		assert.EqualValues(t, 4, n)
		rev = at
	})
	for _, key := range []string{"a", "a0", "ab/3", "a.", "b"} {
		assert.Equal(t, "x", b.value(t, key), key)
	}
	_, err = b.GetAsOf(t.Context(), "a/1", rev)
	require.ErrorIs(t, err, kv.ErrNotFound)
	_, err = b.GetAsOf(t.Context(), "a/1", rev-1)
	require.NoError(t, err)

	n, _, err := b.DeletePrefix(t.Context(), "a", kv.WithPartialPrefix())
	require.NoError(t, err)
	assert.EqualValues(t, 4, n, "with the option, a prefix is just a prefix")
	n, _, err = b.DeletePrefix(t.Context(), "")
	require.NoError(t, err)
	assert.EqualValues(t, 1, n)
}

func TestDeletePrefix_WithOnceReturnsCount(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, key := range []string{"a/1", "a/2", "b/3", "z"} {
		b.put(t, key, "x")
	}
	n, rev, err := b.DeletePrefix(t.Context(), "a/", kv.WithOnce())
	require.NoError(t, err)
	assert.EqualValues(t, 2, n)
	assert.NotZero(t, rev)
	n, _, err = b.DeletePrefix(t.Context(), "", kv.WithOnce())
	require.NoError(t, err)
	assert.EqualValues(t, 2, n, "the slot is not among them")
}

func TestDeletePrefix_WithPartialPrefixDeletesAllOfEtcd(t *testing.T) {
	t.Parallel()
	b := privateBench(t, etcdtest.Start(t))
	all := etcdtest.Must(kv.New(b.cli))
	for _, key := range []string{"\x00", "a", "z/z", "\xff\xff"} {
		_, err := all.Put(t.Context(), key, nil)
		require.NoError(t, err)
	}
	b.refused(t, func() error { _, _, err := all.DeletePrefix(t.Context(), ""); return err }, kv.ErrInvalid)
	n, _, err := all.DeletePrefix(t.Context(), "", kv.WithPartialPrefix())
	require.NoError(t, err)
	assert.EqualValues(t, 4, n)
}
