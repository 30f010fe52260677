package watch_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

// fakeWatcher is a Watcher of the user.
type fakeWatcher struct {
	clientv3.Watcher

	watches, closed atomic.Int64
}

func TestWatcher_UsesUserWatcherAndDoesNotCloseIt(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	cli := etcdtest.NewClient(t, proxy.Endpoints())
	own := &fakeWatcher{Watcher: cli.Watcher}
	cli.Watcher = own
	w := newWatcher(t, cli)
	direct := srv.Client(t)
	_, got := subscribe(t, w, watch.Prefix("w/"), watch.WithSnapshot())
	for i := range 5 {
		got.revision(t, mustPut(t, direct, "w/k", strconv.Itoa(i)))
		proxy.Cut()
	}
	assert.Positive(t, own.watches.Load())
	require.NoError(t, w.Close())
	assert.Zero(t, own.closed.Load())
	cli.Watcher = own.Watcher
}

func TestWatcher_KeepsQuietWatchOverUserWatcher(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cli := srv.Client(t)
	official := cli.Watcher
	cli.Watcher = &fakeWatcher{Watcher: official}
	t.Cleanup(func() { cli.Watcher = official })
	w := newWatcher(t, cli)
	sub, _ := subscribe(t, w, watch.Prefix("w/"))
	began := sub.Status().Heard
	require.Eventually(t, func() bool {
		return assert.NoError(t, sub.Refresh(t.Context())) && sub.Status().Heard.Sub(began) > 5*time.Second
	}, within, 100*time.Millisecond)
	assert.Zero(t, sub.Status().Reopened)
	assert.Equal(t, watch.StateLive, sub.Status().State)
}

func TestWatcher_UsesConnectionOfClientWithoutWatcher(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cli := srv.Client(t)
	official := cli.Watcher
	cli.Watcher = nil
	t.Cleanup(func() { cli.Watcher = official })
	_, got := subscribe(t, newWatcher(t, cli), watch.Prefix("w/"))
	got.revision(t, mustPut(t, cli, "w/k", "v"))
}

func (o *fakeWatcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	o.watches.Add(1)
	return o.Watcher.Watch(ctx, key, opts...)
}

func (o *fakeWatcher) Close() error {
	o.closed.Add(1)
	return o.Watcher.Close()
}
