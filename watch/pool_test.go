package watch_test

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

func TestWatcher_OversizedEventBlocksItsOwnWatchOnly(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	direct := srv.Client(t)
	w := newWatcher(t, srv.Client(t, func(c *clientv3.Config) { c.MaxCallSendMsgSize, c.MaxCallRecvMsgSize = 32<<10, 64<<10 }))
	const n = 20 // more than there are streams, so that some share
	subs, got := make([]*watch.Subscription, n), make([]*recorder, n)
	for i := range n {
		subs[i], got[i] = subscribe(t, w, watch.Key(fmt.Sprintf("w/%02d", i)))
	}
	mustPut(t, direct, "w/19", strings.Repeat("x", 200<<10))
	for round := range 5 {
		for i := range n - 1 {
			rev := mustPut(t, direct, fmt.Sprintf("w/%02d", i), strconv.Itoa(round))
			got[i].revision(t, rev)
		}
	}
	for i := range n - 1 {
		require.Len(t, got[i].events(), 5)
		require.NoError(t, subs[i].Err())
	}
	assert.Empty(t, got[19].all())
	require.Eventually(t, func() bool {
		s := subs[19].Status()
		return s.State == watch.StateStale && s.Err != nil
	}, within, time.Millisecond)
	assert.LessOrEqual(t, w.Stats().Streams, 16)
}

// While one replay goes on, the streams of others that have ended are kept for the next ones, but
// not all of them.
func TestWatcher_BoundsIdleReplayStreams(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Start(t).Client(t)
	w := newWatcher(t, cli)
	first := mustPut(t, cli, "w/k", "1")
	last := mustPut(t, cli, "w/k", "2")
	mustPut(t, cli, "other", "")
	var arrived sync.WaitGroup
	replay := func(until <-chan struct{}) *watch.Subscription {
		var once sync.Once
		arrived.Add(1)
		sub, err := w.Subscribe(watch.Prefix("w/"), func(context.Context, watch.Batch) error {
			once.Do(arrived.Done)
			<-until
			return nil
		}, watch.WithAfter(first))
		require.NoError(t, err)
		return sub
	}
	slow, quick := make(chan struct{}), make(chan struct{})
	defer close(slow)
	replay(slow)
	var subs []*watch.Subscription
	for range 40 {
		subs = append(subs, replay(quick))
	}
	arrived.Wait() // all at once
	close(quick)
	for _, sub := range subs {
		require.NoError(t, sub.WaitRevision(t.Context(), last))
		ready(t, sub)
	}
	assert.LessOrEqual(t, w.Stats().Streams, 1+1+16, "one for live watches, one for the running replay, and the idle ones")
}

func TestWatcher_RefusalKeepsOtherWatchesOfStream(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "u", Password: "p", Grants: []etcdtest.Grant{etcdtest.Read("w/")}})
	w := newWatcher(t, srv.Client(t, etcdtest.As("u", "p")))
	var subs []*watch.Subscription
	for i := range 15 {
		sub, _ := subscribe(t, w, watch.Key(fmt.Sprintf("w/%02d", i)))
		subs = append(subs, sub)
	}
	for i := range 15 {
		sub, err := w.Subscribe(watch.Key(strconv.Itoa(i)), func(context.Context, watch.Batch) error { return nil })
		require.NoError(t, err)
		require.ErrorIs(t, ended(t, sub), watch.ErrPermission)
	}
	for _, sub := range subs {
		require.NoError(t, sub.WaitRevision(t.Context(), 1))
		assert.Zero(t, sub.Status().Reopened)
	}
	assert.Zero(t, w.Stats().Reconnects)
	assert.Equal(t, 1, w.Stats().Streams)
}

func TestWatcher_OversizedReplayIsIsolated(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	direct := srv.Client(t)
	start := mustPut(t, direct, "h/k", "small")
	mustPut(t, direct, "h/k", strings.Repeat("x", 200<<10))
	mustPut(t, direct, "h/k", "small")
	seen := &fakeLogHandler{Handler: slog.DiscardHandler}
	cli := srv.Client(t, func(c *clientv3.Config) { c.MaxCallSendMsgSize, c.MaxCallRecvMsgSize = 32<<10, 64<<10 })
	w := newWatcher(t, cli, watch.WithLogger(slog.New(seen)))
	var subs []*watch.Subscription
	for i := range 40 {
		sub, _ := subscribe(t, w, watch.Key(fmt.Sprintf("w/%02d", i)))
		subs = append(subs, sub)
	}
	got := newRecorder()
	_, err := w.Subscribe(watch.Prefix("h/"), got.handle, watch.WithAfter(start-1))
	require.NoError(t, err)
	reopened := func() (n uint64) {
		for _, sub := range subs {
			n += sub.Status().Reopened
		}
		return n
	}
	var before uint64
	for n := range 9 {
		require.Eventually(t, func() bool { return seen.of("replay is reopened") > n }, within, time.Millisecond)
		if n == 5 {
			before = reopened() // the oversized watch is isolated by now
		}
		// replaces the stream that broke
		sub, _ := subscribe(t, w, watch.Key(fmt.Sprintf("w/another-%02d", n)))
		subs = append(subs, sub)
	}
	assert.LessOrEqual(t, reopened(), before+1, "only the first neighbours may move")
	assert.Empty(t, got.events(), "the first response contains all events")
}

// fakeLogHandler counts records by message.
type fakeLogHandler struct {
	slog.Handler

	mu sync.Mutex
	n  map[string]int
}

func (c *fakeLogHandler) Enabled(context.Context, slog.Level) bool { return true }

func (c *fakeLogHandler) Handle(_ context.Context, r slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[r.Message]++
	return nil
}

func (c *fakeLogHandler) of(message string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[message]
}
