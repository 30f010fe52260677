package watch_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

func TestSubscription_WaitRevisionWaitsForHandler(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli)
	sub, got := subscribe(t, w, watch.Prefix(dir+"a/"), watch.WithSnapshot())
	for range 20 {
		rev := mustPut(t, cli, dir+"a/k", "v")
		require.NoError(t, sub.WaitRevision(t.Context(), rev))
		events := got.events()
		assert.Equal(t, rev, events[len(events)-1].ModRevision)
		require.NoError(t, sub.WaitRevision(t.Context(), mustPut(t, cli, dir+"b", "v")), "WaitRevision must count changes elsewhere")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, sub.WaitRevision(ctx, 1<<40), context.DeadlineExceeded)
	go sub.Close()
	require.ErrorIs(t, sub.WaitRevision(t.Context(), 1<<40), watch.ErrClosed)
}

func TestSubscription_ErrReturnsCause(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		f    func() error
		want func(t *testing.T, err error)
	}{
		"an error of the handler": {func() error { return boom }, func(t *testing.T, err error) { require.ErrorIs(t, err, boom) }},
		"a panic of the handler": {func() error { panic("at the disco") }, func(t *testing.T, err error) {
			var p *watch.PanicError
			require.ErrorAs(t, err, &p)
			assert.Equal(t, "at the disco", p.Value)
			assert.NotEmpty(t, p.Stack)
		}},
		"a panic with an error": {func() error { panic(boom) }, func(t *testing.T, err error) { require.ErrorIs(t, err, boom) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWatcher(t, cli)
			sub, err := w.Subscribe(watch.Prefix(dir), func(context.Context, watch.Batch) error { return c.f() }, watch.WithSnapshot())
			require.NoError(t, err)
			_, other := subscribe(t, w, watch.Prefix(dir))
			c.want(t, ended(t, sub))
			rev := mustPut(t, cli, dir+"k", "v")
			other.revision(t, rev) // is not affected
			require.NoError(t, sub.Close())
			c.want(t, sub.Err())
		})
	}
}

func TestWatcher_CloseEndsWatchesWithErrClosed(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := etcdtest.Must(watch.New(cli))
	sub, _ := subscribe(t, w, watch.Prefix(dir))
	own, _ := subscribe(t, w, watch.Prefix(dir))
	require.NoError(t, own.Close())
	require.NoError(t, own.Err(), "Err is nil after Close")
	assert.Equal(t, 1, w.Active())

	ended := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		for b, err := range w.Watch(t.Context(), watch.Prefix(dir), watch.WithSnapshot()) {
			if b.Kind == watch.Snapshot && err == nil {
				close(begun)
			}
			if err != nil {
				ended <- err
			}
		}
	}()
	<-begun
	require.NoError(t, w.Close())
	require.NoError(t, w.Close())
	require.ErrorIs(t, <-ended, watch.ErrClosed)
	require.ErrorIs(t, sub.Err(), watch.ErrClosed)
	_, err := w.Subscribe(watch.Prefix(dir), func(context.Context, watch.Batch) error { return nil })
	require.ErrorIs(t, err, watch.ErrClosed)
	for _, err := range w.Watch(t.Context(), watch.Prefix(dir)) {
		require.ErrorIs(t, err, watch.ErrClosed)
	}
	assert.Zero(t, w.Active())
	_, err = cli.Get(t.Context(), "k")
	require.NoError(t, err, "the watcher closed the client")
}

func TestWatcher_ClosedClientEndsWatches(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli)
	sub, _ := subscribe(t, w, watch.Prefix(dir))
	require.NoError(t, cli.Close())
	require.ErrorIs(t, ended(t, sub), watch.ErrClosed)
}

func TestSubscription_WaitRevisionReturnsForKnownRevision(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		sub, _ := subscribe(t, watcher, watch.Prefix("dir/"))
		rev := w.commit(change{key: "elsewhere", value: "1"})
		time.Sleep(37 * time.Second) // a progress report has arrived while nobody waited
		require.Equal(t, rev, watcher.ServerWatches()[0].Revision)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, sub.WaitRevision(ctx, rev))
		assert.Equal(t, rev, sub.Status().Revision)
	})
}

func TestWatcher_ClosingNamespaceHasNoEffect(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		below := watcher.Namespace("dir")
		_, got := subscribe(t, below, watch.Key("a"))
		require.NoError(t, below.Close())
		got.revision(t, w.commit(change{key: "dir/a", value: "1"}))
		assert.Equal(t, []string{"a"}, keysOf(got.all()[0]))
		assert.Equal(t, 1, below.Active())
	})
}

func TestWatcher_LogsResyncsAndPanicsWithoutValues(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		_, got := subscribe(t, watcher, watch.Prefix("dir/"), watch.WithSnapshot())
		sub, err := watcher.Subscribe(watch.Prefix("dir/"), func(context.Context, watch.Batch) error { panic("at the disco") })
		require.NoError(t, err)
		ready(t, sub)
		w.set(func() { w.mute = true })
		w.breakOff(rpctypes.ErrNoLeader)
		w.commit(change{key: "dir/a", value: "confidential"})
		w.compactTo(w.commit(change{key: "dir/b", value: "confidential"}))
		w.stopFaults()
		require.ErrorIs(t, ended(t, sub), watch.ErrCompacted)
		got.revision(t, w.revision())
		sub, err = watcher.Subscribe(watch.Prefix("dir/"), func(context.Context, watch.Batch) error { panic("at the disco") }, watch.WithSnapshot())
		require.NoError(t, err)
		require.Error(t, ended(t, sub))
	}, watch.WithLogger(log))
	for _, want := range []string{
		`level=DEBUG msg="watch is reopened" selector=dir/* error="`, `level=INFO msg="watch skips history" selector=dir/*`,
		`level=INFO msg="watch was resynced by a list" selector=dir/*`, `level=ERROR msg="watch handler panicked" selector=dir/*`,
	} {
		assert.Contains(t, out.String(), want)
	}
	assert.NotContains(t, out.String(), "confidential")
}
