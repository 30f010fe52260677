package integration_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// FuzzNames uses any text as a key, a prefix, a dir, the name of a lock, of an election, of a
// service and of an instance. What is not refused stays inside the namespace: no other key is made,
// changed, read or watched.
func FuzzNames(f *testing.F) {
	for _, name := range []string{
		"a", "a/b", "/a", "a/", "a//b", "..", "../out", "a/../../out", ".", "", "\x00", "a\x00", "\xff", "%2e%2e", "%2F", "ns2", "2/out", "locks/a",
		".etcdkit/op/x", "a\nb", "a b", "ä", strings.Repeat("x", 600),
	} {
		f.Add(name, "value")
	}
	const home = "home/ns/"
	srv := etcdtest.Start(f)
	direct := srv.Client(f)
	outside := []string{"home/ns", "home/ns0", "home/ns.", "home/ns2/out", "home/out", "home/n", "locks/a/x", "out", "\x00", "\xff"}
	for _, key := range outside {
		_, err := direct.Put(f.Context(), key, "outside")
		require.NoError(f, err)
	}
	c, err := etcdkit.Open(f.Context(), etcdkit.Config{Endpoints: srv.Endpoints(), Namespace: home})
	require.NoError(f, err)
	f.Cleanup(func() { assert.NoError(f, c.Close()) })
	registry := etcdtest.Must(discovery.New(c))
	f.Cleanup(func() { assert.NoError(f, registry.Close()) })
	first, err := direct.Get(f.Context(), "", clientv3.WithFromKey())
	require.NoError(f, err)

	f.Fuzz(func(t *testing.T, name, value string) {
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		_, _ = c.KV().Put(ctx, name, []byte(value), kv.WithOnce())
		if e, err := c.KV().Get(ctx, name); err == nil {
			assert.NotEqual(t, "outside", string(e.Value), "%q", name)
		}
		if all, err := c.KV().Map(ctx, name, kv.WithPartialPrefix()); err == nil {
			for key, v := range all {
				assert.NotEqual(t, "outside", string(v), "%q lists %q", name, key)
			}
		}
		if all, _, err := c.KV().GetMany(ctx, name, name+"/a"); err == nil {
			for key, e := range all {
				assert.NotEqual(t, "outside", string(e.Value), "%q reads %q", name, key)
			}
		}
		_, _ = c.KV().Transact(ctx, func(_ context.Context, t *kv.Tx) error { return t.Put(name, []byte(value)) })
		_, _ = c.KV().Delete(ctx, name)
		_, _, _ = c.KV().DeletePrefix(ctx, name, kv.WithPartialPrefix())
		if h, err := c.Locks().Mutex(name).TryLock(ctx); err == nil {
			assert.NoError(t, h.Release(ctx))
		}
		_, _ = c.Locks().Election(name).Leader(ctx)
		if k, err := c.Leases().OpenKey(ctx, name, []byte(value)); err == nil {
			assert.NoError(t, k.Close())
		}
		for _, i := range []discovery.Instance{{Service: name, ID: "i", Host: "h", Port: 1}, {Service: "s", ID: name, Host: "h", Port: 1}} {
			if r, err := registry.Register(ctx, i); err == nil {
				assert.NoError(t, r.Close())
			}
		}
		below := c.Namespace(name).KV()
		_, _ = below.Put(ctx, "k", []byte(value))
		_, _ = below.Transact(ctx, func(_ context.Context, t *kv.Tx) error { return t.Put(name, []byte(value)) })
		_, _, _ = below.DeletePrefix(ctx, "")
		if s, err := config.Open(ctx, c, name); err == nil {
			for key, v := range s.All() {
				assert.NotEqual(t, "outside", string(v), "%q is configured as %q", name, key)
			}
			_, _ = config.Set(ctx, s, name, value)
			assert.NoError(t, s.Close())
		}
		if r, err := cache.OpenReplica(ctx, c, name, kv.String()); err == nil {
			for e := range r.All() {
				assert.NotEqual(t, "outside", e.Value, "%q holds %q", name, e.Key)
			}
			assert.NoError(t, r.Close())
		}
		for b, err := range c.Watcher().Watch(ctx, watch.Prefix(name), watch.WithPartialPrefix(), watch.WithSnapshot()) {
			if err != nil {
				break
			}
			for _, e := range b.Events {
				assert.NotEqual(t, "outside", string(e.Value), "%q watches %q", name, e.Key)
			}
			break
		}
		now, err := direct.Get(ctx, "", clientv3.WithFromKey())
		require.NoError(t, err)
		var others []string
		for _, e := range now.Kvs {
			if !strings.HasPrefix(string(e.Key), home) {
				others = append(others, string(e.Key))
				assert.LessOrEqual(t, e.ModRevision, first.Header.Revision, "%q has changed %q", name, e.Key)
			}
		}
		assert.Equal(t, slices.Sorted(slices.Values(outside)), others, "%q", name)
	})
}
