package cache_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

// fakeBoundCodec is a codec that writes the key beside the value, and rejects a value that was
// written for another key.
type fakeBoundCodec struct{}

func (fakeBoundCodec) Encode(key, v string) ([]byte, error) { return []byte(key + "=" + v), nil }

func (fakeBoundCodec) Decode(key string, b []byte) (string, error) {
	v, ok := strings.CutPrefix(string(b), key+"=")
	if !ok {
		return "", errors.New("moved")
	}
	return v, nil
}

func TestCodec_SeesKeyThatStoreHas(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	c := openCache(t, p, "dir", fakeBoundCodec{}, cache.WithReadOnlyCheck())
	r := openReplica(t, p, "dir", fakeBoundCodec{}, cache.WithReadOnlyCheck())
	for _, typed := range []kv.Typed[string]{c.Store(), r.Store(), kv.NewTyped(p.KV(), "dir", fakeBoundCodec{})} {
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
