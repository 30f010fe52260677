package config_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/watch"
)

func TestSource_CostInRPCs(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	p := parttest.New(t, count.Client(t), etcdtest.Prefix(t))
	first := put(t, p, "rate", "1")
	s := open(t, p)
	costs := func(want int, what string, f func()) {
		t.Helper()
		count.Reset()
		f()
		assert.Equal(t, want, count.Total()-count.CountOnlyReads(), "%s: %v", what, count.Counts())
	}
	var rate *config.Value[int]
	var dir *config.Value[fiveFields]
	costs(0, "binding and reading", func() {
		rate = bind[int](t, s, "rate")
		dir = bindDir[fiveFields](t, s, "five")
		_, err := config.Get[int](s, "rate")
		require.NoError(t, err)
		_, _, _, _, _ = rate.Load(), dir.Load(), contents(s), s.Keys(), s.Status()
		s.Follow("", func(config.Change) {})()
	})
	costs(1, "Set", func() {
		_, err := rate.Set(t.Context(), 2)
		require.NoError(t, err)
	})
	costs(1, "Set of a dir", func() {
		_, err := dir.Set(t.Context(), fiveFields{1, 2, 3, 4, 5})
		require.NoError(t, err)
	})
	costs(3, "Rollback", func() {
		_, err := s.Rollback(t.Context(), "rate", first)
		require.NoError(t, err)
	})
	costs(3, "History of three entries", func() {
		for _, err := range s.History(t.Context(), "rate") {
			require.NoError(t, err)
		}
	})
	costs(1, "Delete", func() {
		_, err := s.Delete(t.Context(), "rate")
		require.NoError(t, err)
	})
}

func TestOpen_SourcesOfOneClientShareWatch(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cli := srv.Client(t)
	w := etcdtest.Must(watch.New(cli, watch.WithNamespace("app")))
	t.Cleanup(func() { assert.NoError(t, w.Close()) })
	p := parttest.New(t, cli, "app").WithWatcher(w)
	for range 10 {
		s := open(t, p)
		bind(t, s, "rate", config.WithDefault(1))
	}
	assert.InDelta(t, 1, srv.Metric("etcd_debugging_mvcc_watcher_total"), 0)
}

func TestErrors_DoNotQuoteValues(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	var out etcdtest.Log
	received, handler := recordErrors()
	p := parttest.Shared(t)
	put(t, p, "shop/name", "shop")
	s := open(t, p, handler, config.WithLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	number := bind(t, s, "number", config.WithDefault(1))
	wait := bind(t, s, "wait", config.WithDefault(time.Second))
	doc := bind(t, s, "doc", config.WithDefault(banner{}))
	yaml := bind(t, s, "doc.yaml", config.WithDefault(banner{}))
	dir := bindDir[service](t, s, "shop", config.WithDefault(service{}))
	s.Follow("", func(config.Change) { panic("oh") })
	for _, key := range []string{"number", "wait", "doc", "doc.yaml", "shop/http/rate"} {
		put(t, p, key, secret)
	}
	put(t, p, "doc", `{"text":"`+secret+`","days":"`+secret+`"}`)
	put(t, p, "doc.yaml", "text: "+secret+"\ndays: "+secret)
	rev := put(t, p, "doc.yaml", "text: {"+secret+"\n: "+secret)
	waitForRevision(t, s, rev)
	received.Await(t, 8)
	for _, problem := range received.All() {
		assert.NotContains(t, problem.err.Error(), secret)
	}
	for _, err := range []error{number.Err(), wait.Err(), doc.Err(), yaml.Err(), dir.Err()} {
		require.Error(t, err)
		assert.NotContains(t, err.Error(), secret)
	}
	require.Eventually(t, func() bool { return s.Stats().Panics > 0 }, parttest.Timeout, time.Millisecond)
	assert.Contains(t, out.String(), "panicked")
	assert.NotContains(t, out.String(), secret)
}
