package kv_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestTyped_OnWriteRunsBeforeReturn(t *testing.T) {
	t.Parallel()
	s := etcdtest.Must(kv.New(etcdtest.Client(t), kv.WithNamespace(etcdtest.Prefix(t))))
	var told []string
	var last int64
	h := kv.NewTyped(s, "dir", kv.JSON[int]()).OnWrite(func(_ context.Context, key string, rev int64) {
		told, last = append(told, key), rev
	})
	ctx := t.Context()
	check := func(rev int64, err error) int64 {
		t.Helper()
		require.NoError(t, err)
		assert.Equal(t, rev, last)
		return rev
	}
	check(h.Create(ctx, "a", 1))
	rev := check(h.Put(ctx, "a", 2))
	rev = check(h.Replace(ctx, "a", 3, rev))
	e, err := h.Update(ctx, "a", func(v *int) error { *v++; return nil })
	check(e.ModRevision, err)
	_, err = h.Update(ctx, "a", func(*int) error { return kv.ErrSkipUpdate })
	require.NoError(t, err)
	assert.Len(t, told, 4, "what was skipped is no write")
	_, err = h.Replace(ctx, "a", 5, rev)
	require.ErrorIs(t, err, kv.ErrConflict)
	assert.Equal(t, e.ModRevision, last, "where the key was found")
	_, err = h.Create(ctx, "a", 1)
	require.ErrorIs(t, err, kv.ErrExists)
	assert.Zero(t, last)
	check(h.DeleteAt(ctx, "a", e.ModRevision))
	check(h.Put(ctx, "b", 1))
	check(h.Delete(ctx, "b"))
	check(h.Delete(ctx, "b"))
	n := len(told)
	_, err = h.Put(ctx, "", 1)
	require.ErrorIs(t, err, kv.ErrInvalid)
	_, err = h.Replace(ctx, "a", 1, -1)
	require.ErrorIs(t, err, kv.ErrInvalid)
	assert.Len(t, told, n, "what was not sent is not told of")
	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, err = h.Put(gone, "a", 1)
	require.ErrorIs(t, err, context.Canceled)
}
