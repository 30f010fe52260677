package watch_test

import (
	"context"
	"fmt"
	"math/rand/v2"
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

// size returns short, or full in long runs.
func size(short, full int) int {
	if long() {
		return full
	}
	return short
}

// writer puts and deletes 200 keys, one change after the other, despite faults.
type writer struct {
	cli *clientv3.Client
	dir string
	rng *rand.Rand
}

// write makes one change and returns once it is acknowledged.
func (w *writer) write(ctx context.Context, i int) error {
	k := fmt.Sprintf("%s%03d", w.dir, w.rng.IntN(200))
	op := clientv3.OpPut(k, strconv.Itoa(i))
	if w.rng.IntN(4) == 0 {
		op = clientv3.OpDelete(k)
	}
	for {
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := w.cli.Do(short, op)
		cancel()
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// reference returns the history of a prefix after a revision, read with client/v3 over a connection
// without faults.
func reference(t *testing.T, cli *clientv3.Client, dir string, after, upTo int64) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var out []string
	for resp := range cli.Watch(ctx, dir, clientv3.WithPrefix(), clientv3.WithRev(after+1)) {
		require.NoError(t, resp.Err())
		for _, ev := range resp.Events {
			out = append(out, fmt.Sprint(ev.Type == clientv3.EventTypeDelete, string(ev.Kv.Key), string(ev.Kv.Value), ev.Kv.ModRevision))
		}
		if n := len(resp.Events); n > 0 && resp.Events[n-1].Kv.ModRevision >= upTo {
			return out
		}
	}
	require.NoError(t, ctx.Err())
	return out
}

func formatEvents(events []watch.Event) []string {
	out := make([]string, 0, len(events))
	for _, e := range events {
		out = append(out, fmt.Sprint(e.Type == watch.Delete, e.Key, string(e.Value), e.ModRevision))
	}
	return out
}

func TestWatcher_DeliversExactlyOnceAcrossCutsAndRestarts(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	direct := srv.Client(t)
	watched := etcdtest.NewClient(t, proxy.Endpoints())
	dir := "w/"
	start := mustPut(t, direct, dir+"000", "first")
	w := newWatcher(t, watched)
	sub, got := subscribe(t, w, watch.Prefix(dir))
	_, later := subscribe(t, w, watch.Prefix(dir), watch.WithBuffer(16))

	writes, cuts := size(3000, 20000), size(15, 50)
	// a cut has no effect while the server restarts or the client waits to connect again
	reopenings := uint64(cuts) / 3
	cut := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(cuts)*2*time.Second)
	defer cancel()
	go func() {
		defer close(cut)
		rng := rand.New(rand.NewPCG(3, 4))
		for n := 0; n < cuts || sub.Status().Reopened < reopenings; n++ {
			select {
			case <-time.NewTimer(time.Duration(rng.IntN(300)) * time.Millisecond).C:
				proxy.Cut()
			case <-ctx.Done():
				return
			}
		}
	}()
	cutting := func() bool {
		select {
		case <-cut:
			return false
		default:
			return true
		}
	}
	o := writer{cli: direct, dir: dir, rng: rand.New(rand.NewPCG(1, 2))}
	for i := 0; i < writes || cutting(); i++ {
		require.NoError(t, o.write(t.Context(), i))
		if i == writes/2 || i == writes*3/4 {
			srv.Restart()
		}
	}
	last := mustPut(t, direct, dir+"end", "last")
	got.revision(t, last)
	later.revision(t, last)
	want := reference(t, direct, dir, start, last)
	require.Equal(t, want, formatEvents(got.events()))
	require.Equal(t, want, formatEvents(later.events()))
	for _, b := range got.all() {
		for _, e := range b.Events {
			require.Equal(t, b.Revision, e.ModRevision)
		}
	}
	assert.GreaterOrEqual(t, sub.Status().Reopened, reopenings)
	require.NoError(t, sub.Err())
}

// outage cuts the proxy off while f runs.
func outage(proxy *etcdtest.Proxy, f func()) {
	proxy.Refuse()
	proxy.Cut()
	f()
	proxy.Accept()
}

func TestWatcher_StateWatchSurvivesCompactionDuringOutage(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	direct := srv.Client(t)
	dir := "w/"
	o := writer{cli: direct, dir: dir, rng: rand.New(rand.NewPCG(5, 6))}
	for i := range 100 {
		require.NoError(t, o.write(t.Context(), i))
	}
	w := newWatcher(t, etcdtest.NewClient(t, proxy.Endpoints()))
	m := newMirror()
	var snapshots, resyncs atomic.Int64
	sub, err := w.Subscribe(watch.Prefix(dir), func(_ context.Context, b watch.Batch) error {
		m.apply(b)
		if b.Kind == watch.Live {
			for _, e := range b.Events {
				if e.ModRevision != b.Revision {
					m.err = fmt.Errorf("a live batch of %d holds %d", b.Revision, e.ModRevision)
				}
			}
		}
		switch b.Kind {
		case watch.Snapshot:
			snapshots.Add(1)
		case watch.Resync:
			resyncs.Add(1)
		default:
		}
		return m.err
	}, watch.WithSnapshot())
	require.NoError(t, err)
	ready(t, sub)

	writes := size(1500, 20000) / 6
	for range 3 {
		before := resyncs.Load()
		for i := range writes {
			require.NoError(t, o.write(t.Context(), i))
		}
		outage(proxy, func() {
			for i := range writes {
				require.NoError(t, o.write(t.Context(), i))
			}
			srv.Compact(0)
		})
		last := mustPut(t, direct, dir+"end", "last")
		proxy.Cut()
		ctx, cancel := context.WithTimeout(t.Context(), within)
		require.NoError(t, sub.WaitRevision(ctx, last))
		cancel()
		assert.Greater(t, resyncs.Load(), before, "there was no resync")
	}
	require.NoError(t, sub.Close())
	require.NoError(t, m.err)
	resp, err := direct.Get(t.Context(), dir, clientv3.WithPrefix())
	require.NoError(t, err)
	want := map[string]string{}
	for _, kv := range resp.Kvs {
		want[string(kv.Key)] = string(kv.Value)
	}
	assert.Equal(t, want, m.keys)
	assert.Positive(t, snapshots.Load())
}

func TestWatcher_EventsWatchEndsAfterCompactionDuringOutage(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	direct := srv.Client(t)
	w := newWatcher(t, etcdtest.NewClient(t, proxy.Endpoints()))
	sub, got := subscribe(t, w, watch.Prefix("w/"))
	seen := mustPut(t, direct, "w/k", "0")
	got.revision(t, seen)
	var oldest int64
	outage(proxy, func() {
		for range 5 {
			mustPut(t, direct, "w/k", "1")
		}
		oldest = srv.Compact(0)
	})
	var lost *watch.CompactedError
	require.ErrorAs(t, ended(t, sub), &lost)
	assert.Equal(t, watch.CompactedError{After: seen, Oldest: oldest}, *lost)
	assert.Len(t, got.events(), 1)
}

func TestWatcher_DetectsWipedServer(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	direct := srv.Client(t)
	w := newWatcher(t, srv.Client(t))
	for i := range 50 {
		mustPut(t, direct, "w/k", strconv.Itoa(i))
	}
	mustPut(t, direct, "w/old", "x")
	events, _ := subscribe(t, w, watch.Prefix("w/"))
	_, state := subscribe(t, w, watch.Prefix("w/"), watch.WithSnapshot())
	srv.Wipe()
	require.ErrorIs(t, ended(t, events), watch.ErrHistoryRewritten)
	rev := mustPut(t, srv.Client(t), "w/new", "y")
	m := newMirror()
	m.rewritten = true
	state.until(t, "the new key", func(all []watch.Batch) bool { return all[len(all)-1].Revision == rev })
	for _, b := range state.all() {
		m.apply(b)
	}
	require.NoError(t, m.err)
	assert.Equal(t, map[string]string{"w/new": "y"}, m.keys)
}
