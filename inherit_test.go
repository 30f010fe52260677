package etcdkit_test

import (
	"context"
	"log"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/discovery"
	testkit "github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

// TestParts_LogToTheDefaultLogger is not parallel: it sets the default logger.
func TestParts_LogToTheDefaultLogger(t *testing.T) { //nolint:paralleltest // see above
	records := &etcdtest.Log{}
	before, out, flags := slog.Default(), log.Writer(), log.Flags()
	slog.SetDefault(records.Logger())
	defer func() {
		slog.SetDefault(before)
		log.SetOutput(out) // SetDefault redirects package log
		log.SetFlags(flags)
	}()
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	p := parttest.Of(cli, dir) // has no logger
	for key, value := range map[string]string{"conf/limit": "many", "users/42": "{", "services/orders/instances/a": "no instance"} {
		_, err := p.KV().Put(t.Context(), key, []byte(value))
		require.NoError(t, err)
	}
	source, err := config.Open(t.Context(), p, "conf")
	require.NoError(t, err)
	_, err = config.Bind(source, "limit", config.WithDefault(1))
	require.NoError(t, err)
	users, err := cache.OpenReplica(t.Context(), p, "users", kv.JSON[int]())
	require.NoError(t, err)
	registry := etcdtest.Must(discovery.New(p))
	_, err = registry.OpenService(t.Context(), "orders")
	require.NoError(t, err)
	_, err = p.Watcher().Subscribe(watch.Prefix("users/"), func(context.Context, watch.Batch) error { panic("handler") }, watch.WithSnapshot())
	require.NoError(t, err)
	locker := etcdtest.Must(lock.New(p))
	held, err := locker.Mutex("m").Lock(t.Context())
	require.NoError(t, err)
	session, err := p.Leases().Shared(t.Context())
	require.NoError(t, err)
	_, err = cli.Revoke(t.Context(), session.ID())
	require.NoError(t, err)
	<-held.Context().Done()
	for _, want := range []string{"config could not be used", "key=42", "orders/instances/a", "watch handler panicked", "lease lost", "lock lost"} {
		require.Eventually(t, func() bool { return strings.Contains(records.String(), want) }, 10*time.Second, time.Millisecond, want)
	}
	assert.NotContains(t, records.String(), "level=INFO")
	assert.NotContains(t, records.String(), "level=DEBUG")
	require.NoError(t, locker.Close())
	require.NoError(t, registry.Close())
	require.NoError(t, users.Close())
	require.NoError(t, source.Close())
	require.NoError(t, p.Leases().Close())
	require.NoError(t, p.Watcher().Close())
}

func TestClient_PartsUseLogger(t *testing.T) {
	t.Parallel()
	records := &etcdtest.Log{}
	c := testkit.Open(t, etcdkit.WithLogger(records.Logger()))
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
	registry := etcdtest.Must(discovery.New(c))
	_, err = registry.OpenService(t.Context(), "orders")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		said := records.String()
		return strings.Contains(said, "limit") && strings.Contains(said, "key=42") && strings.Contains(said, "orders/instances/a")
	}, 10*time.Second, time.Millisecond)
	assert.NotContains(t, records.String(), "many")
	require.NoError(t, registry.Close())
	require.NoError(t, users.Close())
	require.NoError(t, source.Close())
}
