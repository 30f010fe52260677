package etcdkit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestWhatIsOpenedWithAClientReportsWhereTheClientDoes(t *testing.T) {
	t.Parallel()
	lines := &lockedWriter{w: &strings.Builder{}}
	c := open(t, etcdkit.Config{Endpoints: etcdtest.Endpoints(), Namespace: etcdtest.Prefix(t)}, etcdkit.WithLogger(lines.logger()))
	for key, value := range map[string]string{"conf/limit": "many", "users/42": "{", "services/orders/instances/a": "no instance"} {
		_, err := c.KV().Put(t.Context(), key, []byte(value))
		require.NoError(t, err)
	}
	source, err := config.Open(t.Context(), c, "conf")
	require.NoError(t, err)
	_, err = config.Bind(source, "limit", config.WithDefault(1))
	require.NoError(t, err)
	users, err := cache.OpenReplica(t.Context(), c, "users", kv.JSON[int]())
	require.NoError(t, err)
	registry := discovery.New(c)
	_, err = registry.OpenService(t.Context(), "orders")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		said := lines.String()
		return strings.Contains(said, "limit") && strings.Contains(said, "key=42") && strings.Contains(said, "orders/instances/a")
	}, 10*time.Second, time.Millisecond)
	assert.NotContains(t, lines.String(), "many")
	require.NoError(t, registry.Close())
	require.NoError(t, users.Close())
	require.NoError(t, source.Close())
}
