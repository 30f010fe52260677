package etcdkit_test

import (
	"encoding/json"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestStats_HasJSONNamesThroughout(t *testing.T) {
	t.Parallel()
	c := opened(t, etcdkit.Config{Endpoints: etcdtest.Endpoints()})
	text, err := json.Marshal(c.Stats())
	require.NoError(t, err)
	var stats map[string]any
	require.NoError(t, json.Unmarshal(text, &stats))
	var check func(of map[string]any)
	check = func(of map[string]any) {
		for name, value := range of {
			assert.True(t, unicode.IsLower(rune(name[0])), name)
			if nested, ok := value.(map[string]any); ok {
				check(nested)
			}
		}
	}
	check(stats)
	assert.Contains(t, stats["kv"], "calls")
}

func TestClient_ErrorSaysThatClientIsClosed(t *testing.T) {
	t.Parallel()
	c, err := etcdkit.OpenLazy(etcdkit.Config{Endpoints: etcdtest.Endpoints()})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, err = c.Members(t.Context())
	require.ErrorIs(t, err, etcdkit.ErrClosed)
	require.EqualError(t, err, "etcdkit: members: client closed")
	_, err = c.Health(t.Context())
	require.EqualError(t, err, "etcdkit: health: client closed")
}
