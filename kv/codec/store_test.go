package codec_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/kv/codec"
)

type user struct{ Name string }

func encrypted[T any](tb testing.TB, first codec.Key, others ...codec.Key) kv.Codec[T] {
	tb.Helper()
	return codec.With(kv.JSON[T](), codec.Gzip(1024), codec.AESGCM(ring(tb, first, others...)))
}

func TestAESGCM_InStore(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	users := kv.NewTyped(p.KV(), "users", encrypted[user](t, key("1", 1)))
	_, err := users.Put(t.Context(), "42", user{"Ada"})
	require.NoError(t, err)
	e, err := users.Update(t.Context(), "42", func(u *user) error { u.Name += " L."; return nil })
	require.NoError(t, err)
	assert.Equal(t, "Ada L.", e.Value.Name)
	_, err = p.KV().Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
		e, err := users.In(tx).Get("42")
		if err != nil {
			return err
		}
		return users.In(tx).Put("43", e.Value)
	})
	require.NoError(t, err)
	e, err = users.Get(t.Context(), "43")
	require.NoError(t, err)
	assert.Equal(t, "Ada L.", e.Value.Name)

	stored, err := p.KV().Get(t.Context(), "users/42")
	require.NoError(t, err)
	assert.NotContains(t, string(stored.Value), "Ada")
	_, err = p.KV().Put(t.Context(), "users/44", stored.Value)
	require.NoError(t, err)
	_, err = users.Get(t.Context(), "44")
	require.ErrorIs(t, err, kv.ErrDecode)
	require.ErrorIs(t, err, codec.ErrAuthentication)
	require.ErrorContains(t, err, "encrypted for another entry", "the error says what is wrong")
}

func TestWithSkipEqual_ComparesBelowLayers(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	users := kv.NewTyped(p.KV(), "users", encrypted[user](t, key("1", 1)))
	rev, err := users.Put(t.Context(), "42", user{"Ada"})
	require.NoError(t, err)
	same := func(*user) error { return nil }
	e, err := users.Update(t.Context(), "42", same, kv.WithSkipEqual())
	require.NoError(t, err)
	assert.Equal(t, rev, e.ModRevision)
	assert.Equal(t, "Ada", e.Value.Name)
	e, err = users.Update(t.Context(), "42", same)
	require.NoError(t, err)
	assert.Greater(t, e.ModRevision, rev, "written again unless asked not to")
	e, err = users.Update(t.Context(), "42", func(u *user) error { u.Name = "Bob"; return nil }, kv.WithSkipEqual())
	require.NoError(t, err)
	assert.Equal(t, "Bob", e.Value.Name)
}

func TestAESGCM_InCaches(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	c, err := cache.Open(t.Context(), p, "users", encrypted[user](t, key("1", 1)), cache.WithReadOnlyCheck())
	require.NoError(t, err)
	defer func() { assert.NoError(t, c.Close()) }()
	r, err := cache.OpenReplica(t.Context(), p, "users", encrypted[user](t, key("1", 1)), cache.WithReadOnlyCheck())
	require.NoError(t, err)
	defer func() { assert.NoError(t, r.Close()) }()
	_, err = c.Store().Put(t.Context(), "42", user{"Ada"})
	require.NoError(t, err)
	for range 2 {
		e, err := c.Get(t.Context(), "42")
		require.NoError(t, err)
		assert.Equal(t, "Ada", e.Value.Name)
		e, err = r.GetLinearizable(t.Context(), "42")
		require.NoError(t, err)
		assert.Equal(t, "Ada", e.Value.Name)
	}
}

func TestAESGCM_InConfig(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	src, err := config.Open(t.Context(), p, "conf")
	require.NoError(t, err)
	defer func() { assert.NoError(t, src.Close()) }()
	v, err := config.Bind(src, "user", config.WithCodec(encrypted[user](t, key("1", 1))), config.WithDefault(user{"nobody"}))
	require.NoError(t, err)
	_, err = v.Set(t.Context(), user{"Ada"})
	require.NoError(t, err)
	assert.Equal(t, "Ada", v.Load().Name)
	stored, err := p.KV().Get(t.Context(), "conf/user")
	require.NoError(t, err)
	assert.NotContains(t, string(stored.Value), "Ada")
}

func TestAESGCM_RotatesKeysOfConfig(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	bind := func(c kv.Codec[user]) (*config.Source, *config.Value[user], error) {
		src, err := config.Open(t.Context(), p, "conf")
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, src.Close()) })
		v, err := config.Bind(src, "user", config.WithCodec(c))
		return src, v, err
	}
	stored := func() kv.Entry[[]byte] {
		e, err := p.KV().Get(t.Context(), "conf/user")
		require.NoError(t, err)
		return e
	}
	_, err := kv.NewTyped(p.KV(), "conf", encrypted[user](t, key("old", 1))).Create(t.Context(), "user", user{"Ada"})
	require.NoError(t, err)
	both := encrypted[user](t, key("new", 2), key("old", 1))
	src, running, err := bind(both)
	require.NoError(t, err)
	require.Equal(t, "Ada", running.Load().Name)

	same := func(*user) error { return nil }
	before := stored()
	_, err = running.Update(t.Context(), same)
	require.NoError(t, err)
	require.Equal(t, before, stored(), "an update of the configuration that changes nothing writes nothing")
	_, _, err = bind(encrypted[user](t, key("new", 2)))
	require.ErrorIs(t, err, kv.ErrDecode)

	e, err := kv.NewTyped(p.KV(), "conf", both).Update(t.Context(), "user", same)
	require.NoError(t, err)
	require.Greater(t, e.ModRevision, before.ModRevision)
	_, v, err := bind(encrypted[user](t, key("new", 2)))
	require.NoError(t, err)
	assert.Equal(t, "Ada", v.Load().Name)
	_, err = config.Set(t.Context(), src, "other", 1) // returns when src has seen the rotation
	require.NoError(t, err)
	require.NoError(t, running.Err())
	assert.Equal(t, "Ada", running.Load().Name)
}
