package cache_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestCodec_SeesKeyThatStoreHas(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	c := openCache(t, p, "dir", etcdtest.BoundCodec{}, cache.WithReadOnlyCheck())
	r := openReplica(t, p, "dir", etcdtest.BoundCodec{}, cache.WithReadOnlyCheck())
	for _, typed := range []kv.Typed[string]{c.Store(), r.Store(), kv.NewTyped(p.KV(), "dir", etcdtest.BoundCodec{})} {
		rev, err := typed.Put(t.Context(), "k", "v")
		require.NoError(t, err)
		e, err := c.GetAtLeast(t.Context(), "k", rev)
		require.NoError(t, err)
		assert.Equal(t, "v", e.Value)
		e, err = r.GetLinearizable(t.Context(), "k")
		require.NoError(t, err)
		assert.Equal(t, "v", e.Value)
	}
	e, err := p.KV().Get(t.Context(), "dir/k")
	require.NoError(t, err)
	assert.Equal(t, "dir/k=v", string(e.Value))
}
