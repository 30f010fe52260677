package watch_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

func TestWatcher_LogsOutageOnceWhenItBeginsAndEnds(t *testing.T) {
	t.Parallel()
	seen := &fakeLogHandler{Handler: slog.DiscardHandler}
	const begin, end = "watches are interrupted", "watches continue"
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		one, _ := subscribe(t, watcher, watch.Prefix("dir/"), watch.WithSnapshot())
		other, _ := subscribe(t, watcher, watch.Prefix("other/"))
		records := func() [2]int { return [2]int{seen.of(begin), seen.of(end)} }
		outage := func(lasts time.Duration) {
			w.set(func() { w.refuse = func(int) error { return rpctypes.ErrNoLeader } })
			w.breakOff(rpctypes.ErrNoLeader)
			time.Sleep(lasts)
			w.set(func() { w.refuse = nil })
			time.Sleep(10 * time.Second)
			require.Equal(t, watch.StateLive, one.Status().State)
			require.Equal(t, watch.StateLive, other.Status().State)
		}
		w.breakOff(nil)
		time.Sleep(10 * time.Second)
		require.Equal(t, [2]int{0, 0}, records(), "a stream that was replaced at once was logged as an outage")
		outage(25 * time.Second)
		require.Equal(t, [2]int{1, 1}, records())
		outage(time.Second)
		require.Equal(t, [2]int{1, 1}, records(), "less than a minute later")
		outage(time.Minute)
		require.Equal(t, [2]int{2, 2}, records(), "the duration is missing")
	}, watch.WithLogger(slog.New(seen)))
}

func TestWatcher_DoesNotLogEndOfOutageForClosedWatches(t *testing.T) {
	t.Parallel()
	seen := &fakeLogHandler{Handler: slog.DiscardHandler}
	const begin, end = "watches are interrupted", "watches continue"
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		records := func() [2]int { return [2]int{seen.of(begin), seen.of(end)} }
		sub, _ := subscribe(t, watcher, watch.Prefix("dir/"), watch.WithSnapshot())
		w.set(func() { w.refuse = func(int) error { return rpctypes.ErrNoLeader } })
		w.breakOff(rpctypes.ErrNoLeader)
		time.Sleep(10 * time.Second)
		require.Equal(t, [2]int{1, 0}, records())
		require.NoError(t, sub.Close())
		time.Sleep(10 * time.Second)
		require.Equal(t, [2]int{1, 0}, records(), "etcd does not answer yet")
		w.set(func() { w.refuse = nil })
		sub, _ = subscribe(t, watcher, watch.Prefix("other/"))
		time.Sleep(10 * time.Second)
		require.Equal(t, watch.StateLive, sub.Status().State)
		require.Equal(t, [2]int{1, 1}, records())
	}, watch.WithLogger(slog.New(seen)))
}

func TestWatcher_StatusCarriesConnectionError(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	w := newWatcher(t, srv.Client(t))
	sub, _ := subscribe(t, w, watch.Prefix("dir/"))
	srv.Kill()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		err := sub.Status().Err
		require.ErrorContains(c, err, "no response to a new watch")
		require.ErrorContains(c, err, srv.Endpoint())
		require.ErrorContains(c, err, "connection refused")
	}, within, 50*time.Millisecond)
}
