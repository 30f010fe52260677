package cache_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

// What a transaction has written through the store of a cache is seen by the next read of it.
func TestCache_SeesTransactionsOfItsStore(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	c := openCache(t, p, "dir", kv.String())
	r := openReplica(t, p, "dir", kv.String())
	for n, store := range []kv.Typed[string]{c.Store(), r.Store()} {
		get := func(key string) (string, error) {
			if n == 0 {
				e, err := c.Get(t.Context(), key)
				return e.Value, err
			}
			e, err := r.Get(t.Context(), key)
			return e.Value, err
		}
		for i := range 20 {
			mustPut(t, p.KV(), "dir/old", "old")
			_, err := c.GetLinearizable(t.Context(), "old")
			require.NoError(t, err)
			want := string(rune('a' + i))
			rev, err := p.KV().Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
				if err := store.In(tx).Put("k", want); err != nil {
					return err
				}
				return store.In(tx).Delete("old")
			})
			require.NoError(t, err)
			assert.Positive(t, rev)
			got, err := get("k")
			require.NoError(t, err)
			assert.Equal(t, want, got)
			_, err = get("old")
			assert.ErrorIs(t, err, kv.ErrNotFound)
		}
	}
}

func TestCache_SeesBatchesOfItsStore(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	c := openCache(t, p, "dir", kv.String())
	for i := range 20 {
		want := string(rune('a' + i))
		_, err := c.Get(t.Context(), "k")
		assert.Equal(t, i == 0, err != nil)
		_, err = p.KV().Batch(t.Context(), c.Store().OpPut("k", want))
		require.NoError(t, err)
		e, err := c.Get(t.Context(), "k")
		require.NoError(t, err)
		assert.Equal(t, want, e.Value)
	}
}
