package keywatch_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/keywatch"
)

// fakeHandler records the calls of its methods.
type fakeHandler struct {
	mu     sync.Mutex
	opened []int64
	lost   []error
	events []*mvccpb.Event
}

func (h *fakeHandler) Opened(rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opened = append(h.opened, rev)
}

func (h *fakeHandler) Changed(ev *mvccpb.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, ev)
}

func (h *fakeHandler) Lost(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost = append(h.lost, err)
}

func (h *fakeHandler) count() (opened, events, lost int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.opened), len(h.events), len(h.lost)
}

func (h *fakeHandler) lastErr() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.lost) == 0 {
		return nil
	}
	return h.lost[len(h.lost)-1]
}

func newWatcher(t *testing.T, cli *clientv3.Client, clientV3 bool) *keywatch.Watcher {
	t.Helper()
	w := keywatch.New(cli, clientV3)
	t.Cleanup(w.Close)
	return w
}

func eventually(t *testing.T, f func() bool, why ...any) {
	t.Helper()
	require.Eventually(t, f, 30*time.Second, 2*time.Millisecond, why...)
}

func put(t *testing.T, cli *clientv3.Client, key string) int64 {
	t.Helper()
	r, err := cli.Put(t.Context(), key, "")
	require.NoError(t, err)
	return r.Header.Revision
}

func remove(t *testing.T, cli *clientv3.Client, key string) int64 {
	t.Helper()
	r, err := cli.Delete(t.Context(), key)
	require.NoError(t, err)
	return r.Header.Revision
}

// bothTransports runs a test over streams of the package and over a Watcher of the user.
func bothTransports(t *testing.T, f func(t *testing.T, clientV3 bool)) {
	t.Helper()
	for name, clientV3 := range map[string]bool{"own stream": true, "user's Watcher": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, clientV3)
		})
	}
}

// start starts a watch and returns a function that ends it.
func start(w *keywatch.Watcher, t keywatch.Target, h keywatch.Handler) (stop func()) {
	w.Watch(t, h)
	return func() { w.Unwatch(t, h) }
}

func TestWatcher_DeliversChangesAfterOpened(t *testing.T) {
	t.Parallel()
	bothTransports(t, func(t *testing.T, clientV3 bool) {
		cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
		w := newWatcher(t, cli, clientV3)
		before := put(t, cli, dir+"a")
		targets := []keywatch.Target{
			{Key: dir + "a"},
			{Key: dir + "a", Filter: keywatch.Deletions},
			{Key: dir, Prefix: true, Filter: keywatch.Puts},
		}
		var all []*fakeHandler
		for _, target := range targets {
			h := &fakeHandler{}
			all = append(all, h)
			t.Cleanup(start(w, target, h))
		}
		eventually(t, func() bool { return w.Open() == len(targets) })
		for _, h := range all {
			assert.GreaterOrEqual(t, h.opened[0], before)
		}
		changed := put(t, cli, dir+"a")
		deleted := remove(t, cli, dir+"a")
		other := put(t, cli, dir+"b")
		for i, want := range [][]int64{{changed, deleted}, {deleted}, {changed, other}} {
			eventually(t, func() bool { _, n, _ := all[i].count(); return n >= len(want) })
			var got []int64
			for _, ev := range all[i].events {
				got = append(got, ev.Kv.ModRevision)
			}
			assert.Equal(t, want, got, "%+v", targets[i])
		}
	})
}

func TestWatcher_SharesEqualWatches(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	cli := s.Client(t)
	w := newWatcher(t, cli, true)
	first := &fakeHandler{}
	stopFirst := start(w, keywatch.Target{Key: "a"}, first)
	eventually(t, func() bool { return w.Open() == 1 })
	seen := put(t, cli, "a")
	eventually(t, func() bool { _, n, _ := first.count(); return n == 1 })
	second := &fakeHandler{}
	stopSecond := start(w, keywatch.Target{Key: "a"}, second)
	assert.Equal(t, []int64{seen}, second.opened, "an earlier event was delivered again")
	assert.InDelta(t, 1, s.Metric("etcd_debugging_mvcc_watcher_total"), 0)
	stopFirst()
	put(t, cli, "a")
	eventually(t, func() bool { _, n, _ := second.count(); return n == 1 })
	_, n, _ := first.count()
	assert.Equal(t, 1, n, "a handler got an event after Unwatch")
	stopSecond()
	assert.Zero(t, w.Open())
	eventually(t, func() bool { return s.Metric("etcd_debugging_mvcc_watcher_total") == 0 })
}

func TestWatcher_ReopensStreamAndClosesIdleOne(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	proxy := s.Proxy(t)
	direct := s.Client(t)
	w := newWatcher(t, etcdtest.NewClient(t, proxy.Endpoints()), true)
	w.KeepOpen(50 * time.Millisecond)
	h := &fakeHandler{}
	stop := start(w, keywatch.Target{Key: "a"}, h)
	eventually(t, func() bool { return w.Open() == 1 })
	proxy.Refuse()
	proxy.Cut()
	eventually(t, func() bool { _, _, lost := h.count(); return lost > 0 && w.Open() == 0 })
	missed := put(t, direct, "a")
	proxy.Accept()
	eventually(t, func() bool { opened, _, _ := h.count(); return opened == 2 })
	assert.GreaterOrEqual(t, h.opened[1], missed, "the revision shows that changes were missed")
	delivered := put(t, direct, "a")
	eventually(t, func() bool { _, n, _ := h.count(); return n == 1 })
	assert.Equal(t, delivered, h.events[0].Kv.ModRevision)
	assert.Positive(t, w.Reopened())

	stop()
	eventually(t, func() bool { return s.Metric("etcd_debugging_mvcc_watch_stream_total") == 0 }, "the idle stream was not closed")
	again := &fakeHandler{}
	defer start(w, keywatch.Target{Key: "a"}, again)()
	eventually(t, func() bool { return w.Open() == 1 })
}

// A stream in a black hole neither ends nor responds.
func TestWatcher_ReplacesSilentStream(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	proxy := s.Proxy(t)
	w := newWatcher(t, etcdtest.NewClient(t, proxy.Endpoints()), true)
	h := &fakeHandler{}
	defer start(w, keywatch.Target{Key: "a"}, h)()
	eventually(t, func() bool { return w.Open() == 1 })
	proxy.Blackhole(true, true)
	defer start(w, keywatch.Target{Key: "b"}, &fakeHandler{})() // needs a response
	eventually(t, func() bool { return h.lastErr() != nil })
	assert.ErrorIs(t, h.lastErr(), errs.Unavailable)
	proxy.Heal()
	proxy.Cut()
	eventually(t, func() bool { return w.Open() == 2 })
}

func TestWatcher_ProbesIdleStream(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	proxy := s.Proxy(t)
	w := newWatcher(t, etcdtest.NewClient(t, proxy.Endpoints()), true)
	w.ProbeAfter(200 * time.Millisecond)
	h := &fakeHandler{}
	t.Cleanup(start(w, keywatch.Target{Key: "a"}, h))
	eventually(t, func() bool { return w.Open() == 1 })
	asked := s.Metric("etcd_network_client_grpc_sent_bytes_total")
	eventually(t, func() bool { return s.Metric("etcd_network_client_grpc_sent_bytes_total") > asked }, "the probe was not answered")
	put(t, s.Client(t), "a")
	eventually(t, func() bool { _, n, _ := h.count(); return n == 1 })
	assert.NoError(t, h.lastErr())
	assert.Equal(t, 1, w.Open(), "the probe is still open")
	proxy.Blackhole(true, true)
	eventually(t, func() bool { return h.lastErr() != nil }, "the silence was not detected")
	assert.ErrorIs(t, h.lastErr(), errs.Unavailable)
	proxy.Heal()
	proxy.Cut()
	eventually(t, func() bool { return w.Open() == 1 })
}

// More requests are sent than the network buffers, so that Send blocks.
func TestWatcher_ReplacesBlockedStream(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	proxy := s.Proxy(t)
	w := newWatcher(t, etcdtest.NewClient(t, proxy.Endpoints()), true)
	h := &fakeHandler{}
	defer start(w, keywatch.Target{Key: "a"}, h)()
	eventually(t, func() bool { return w.Open() == 1 })
	proxy.Blackhole(true, true)
	long := strings.Repeat("k", 1000)
	for i := range 300 {
		t.Cleanup(start(w, keywatch.Target{Key: long + strconv.Itoa(i)}, &fakeHandler{}))
	}
	eventually(t, func() bool { return h.lastErr() != nil })
	assert.ErrorIs(t, h.lastErr(), errs.Unavailable)
	proxy.Heal()
	proxy.Cut()
	eventually(t, func() bool { return w.Open() == 301 })
}

func TestWatcher_PermissionErrorIsPermanent(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	etcdtest.EnableAuth(t, s, etcdtest.User{Name: "ann", Password: "pw", Grants: []etcdtest.Grant{etcdtest.ReadWrite("ours/")}})
	w := newWatcher(t, s.Client(t, etcdtest.As("ann", "pw")), true)
	ours, theirs := &fakeHandler{}, &fakeHandler{}
	defer start(w, keywatch.Target{Key: "theirs/a"}, theirs)()
	defer start(w, keywatch.Target{Key: "ours/a"}, ours)()
	eventually(t, func() bool { return theirs.lastErr() != nil && w.Open() == 1 })
	require.ErrorIs(t, theirs.lastErr(), errs.Permission)
	opened, _, lost := ours.count()
	assert.Equal(t, []int{1, 0}, []int{opened, lost}, "another watch of the stream was affected")
}

func TestWatcher_ClosedClientOrWatcherIsPermanent(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(cli *clientv3.Client, w *keywatch.Watcher){
		"client":  func(cli *clientv3.Client, _ *keywatch.Watcher) { _ = cli.Close() },
		"watcher": func(_ *clientv3.Client, w *keywatch.Watcher) { w.Close() },
	} {
		cli := etcdtest.Client(t)
		w := newWatcher(t, cli, true)
		h := &fakeHandler{}
		stop := start(w, keywatch.Target{Key: etcdtest.Prefix(t)}, h)
		eventually(t, func() bool { return w.Open() == 1 })
		end(cli, w)
		eventually(t, func() bool { return h.lastErr() != nil })
		require.ErrorIs(t, h.lastErr(), errs.Closed, name)
		late := &fakeHandler{}
		start(w, keywatch.Target{Key: etcdtest.Prefix(t)}, late)()
		require.ErrorIs(t, late.lastErr(), errs.Closed, name)
		stop()
	}
}

func TestWatcher_SurvivesChurnWhileStreamsBreak(t *testing.T) {
	t.Parallel()
	proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
	w := newWatcher(t, etcdtest.NewClient(t, proxy.Endpoints()), true)
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				end := start(w, keywatch.Target{Key: dir + strconv.Itoa(i%4)}, &fakeHandler{})
				time.Sleep(time.Millisecond) // it may be requested, confirmed, or neither
				end()
			}
		})
	}
	for ctx.Err() == nil {
		time.Sleep(100 * time.Millisecond) // between the cuts
		proxy.Cut()
	}
	wg.Wait()
	h := &fakeHandler{}
	defer start(w, keywatch.Target{Key: dir + "0"}, h)()
	eventually(t, func() bool { return w.Open() == 1 })
	put(t, direct, dir+"0")
	eventually(t, func() bool { _, n, _ := h.count(); return n == 1 })
}
