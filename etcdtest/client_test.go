package etcdtest_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// put writes the key "k", which get reads.
func put(t *testing.T, c *etcdkit.Client, value string) {
	t.Helper()
	_, err := c.KV().Put(t.Context(), "k", []byte(value))
	require.NoError(t, err)
}

func get(t *testing.T, c *etcdkit.Client) (string, error) {
	t.Helper()
	e, err := c.KV().Get(t.Context(), "k")
	return string(e.Value), err
}

func TestOpen_ClientsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	a, b := etcdtest.Open(t), etcdtest.Open(t)
	put(t, a, "of a")
	_, err := get(t, b)
	require.ErrorIs(t, err, kv.ErrNotFound)
	assert.Equal(t, a.Raw().Endpoints(), b.Raw().Endpoints(), "they share a server")
}

func TestConfig_ClientsShareItsNamespace(t *testing.T) {
	t.Parallel()
	config := etcdtest.Config(t)
	put(t, etcdtest.OpenConfig(t, config), "v")
	value, err := get(t, etcdtest.OpenConfig(t, config))
	require.NoError(t, err)
	assert.Equal(t, "v", value)
	assert.NotEqual(t, config.Namespace, etcdtest.Config(t).Namespace)
}

//nolint:tparallel // the subtest has to be over before the check
func TestOpen_ClosesAndEmptiesWhenTheTestEnds(t *testing.T) {
	t.Parallel()
	var client *etcdkit.Client
	var config etcdkit.Config
	t.Run("test", func(t *testing.T) {
		config = etcdtest.Config(t)
		client = etcdtest.OpenConfig(t, config)
		put(t, client, "v")
	})
	_, err := client.KV().Exists(t.Context(), "k")
	require.ErrorIs(t, err, etcdkit.ErrClosed)
	_, err = get(t, etcdtest.OpenConfig(t, config))
	require.ErrorIs(t, err, kv.ErrNotFound)
}
