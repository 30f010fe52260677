package watch_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

func TestWatcher_CoalescingDeliversLatestChangeOfEachKey(t *testing.T) {
	t.Parallel()
	for name, buffer := range map[string]int{"within its buffer": 1000, "beyond its buffer": 8} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
				release := make(chan struct{})
				r := newRecorder()
				sub, err := watcher.Subscribe(watch.Prefix("dir/"), func(ctx context.Context, b watch.Batch) error {
					<-release
					return r.handle(ctx, b)
				}, watch.WithCoalescing(), watch.WithBuffer(buffer))
				require.NoError(t, err)
				ready(t, sub)
				w.commit(change{key: "dir/a", value: "first"})
				synctest.Wait()
				for i := range 100 {
					w.commit(change{key: "dir/a", value: strconv.Itoa(i)}, change{key: "dir/b", value: strconv.Itoa(i)})
					synctest.Wait()
				}
				w.commit(change{key: "dir/a", del: true})
				synctest.Wait()
				close(release)
				r.revision(t, w.revision())
				require.Len(t, r.all(), 2)
				b := r.all()[1]
				assert.Equal(t, 199, b.Folded)
				assert.Equal(t, []string{"dir/b", "dir/a"}, keysOf(b))
				assert.Equal(t, "99", string(b.Events[0].Value))
				assert.Equal(t, watch.Delete, b.Events[1].Type)
				assert.Equal(t, uint64(199), watcher.Stats().Folded)
				assert.Zero(t, watcher.Stats().Overflows)
			})
		})
	}
}

func TestWatcher_SlowConsumerGetsAllEventsAndBlocksNoOther(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		release := make(chan struct{})
		slow := newRecorder()
		sub, err := watcher.Subscribe(watch.Prefix("dir/"), func(ctx context.Context, b watch.Batch) error {
			<-release
			return slow.handle(ctx, b)
		}, watch.WithBuffer(4))
		require.NoError(t, err)
		ready(t, sub)
		_, quick := subscribe(t, watcher, watch.Prefix("dir/"))
		for i := range 100 {
			began := time.Now()
			quick.revision(t, w.commit(change{key: "dir/a", value: strconv.Itoa(i)}))
			synctest.Wait() // the slow consumer handles the first change before others follow
			assert.Zero(t, time.Since(began))
		}
		assert.Equal(t, uint64(1), watcher.Stats().Overflows)
		assert.Equal(t, 1, watcher.Stats().ServerWatches)
		close(release)
		slow.revision(t, w.revision())
		assert.Equal(t, quick.events(), slow.events())
		assert.Equal(t, uint64(1), watcher.Stats().Replays)
	})
}

func TestWatcher_SlowStateConsumerIsResynced(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		release := make(chan struct{})
		m := newMirror()
		first := true
		sub, err := watcher.Subscribe(watch.Prefix("dir/"), func(_ context.Context, b watch.Batch) error {
			m.apply(b)
			if b.Kind == watch.Live && first {
				first = false
				<-release
			}
			return m.err
		}, watch.WithBuffer(4), watch.WithSnapshot())
		require.NoError(t, err)
		ready(t, sub)
		for i := range 100 {
			w.commit(change{key: key(i % 7), value: strconv.Itoa(i), del: i%3 == 0})
			synctest.Wait()
		}
		close(release)
		require.NoError(t, sub.WaitRevision(t.Context(), w.revision()))
		assert.Equal(t, 1, m.resyncs)
		assert.Equal(t, w.state(), m.keys)
	})
}

func TestWatcher_BlockedConsumerDoesNotGrowHeap(t *testing.T) { //nolint:paralleltest // others would be in the heap too
	srv := etcdtest.Start(t)
	direct := srv.Client(t)
	w := newWatcher(t, srv.Client(t))
	release := make(chan struct{})
	n := 0
	sub, err := w.Subscribe(watch.Prefix("w/"), func(context.Context, watch.Batch) error {
		<-release
		n++
		return nil
	}, watch.WithBuffer(10))
	require.NoError(t, err)
	ready(t, sub)
	before := heap()
	value := strings.Repeat("x", 100<<10)
	writes := size(500, 1500)
	var last int64
	for i := range writes {
		last = mustPut(t, direct, fmt.Sprintf("w/%d", i%10), value)
	}
	require.Eventually(t, func() bool { return w.ServerWatches()[0].Revision >= last }, within, time.Millisecond)
	assert.Less(t, heap(), before+11<<20, "the consumer holds more than the buffer")
	close(release)
	require.NoError(t, sub.WaitRevision(t.Context(), last))
	assert.Equal(t, writes, n, "an event was lost")
}

// Each of eight consumers reads more history than all of them together may hold.
func TestWatcher_BoundsMemoryOfReplays(t *testing.T) { //nolint:paralleltest // others would be in the heap too
	cli := etcdtest.Start(t).Client(t)
	const large = 60
	start := mustPut(t, cli, "dir/a", "x")
	value := strings.Repeat("x", 1<<20)
	for range large {
		mustPut(t, cli, "dir/a", value)
	}
	w := newWatcher(t, cli)
	before := heap()
	var most atomic.Uint64
	var got []*deliveryCounter
	for range 8 {
		c := &deliveryCounter{want: large, all: make(chan struct{}, 1)}
		got = append(got, c)
		_, err := w.Subscribe(watch.Prefix("dir/"), func(_ context.Context, b watch.Batch) error {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.Store(max(most.Load(), m.HeapAlloc))
			c.add(len(b.Events))
			return nil
		}, watch.WithAfter(start))
		require.NoError(t, err)
	}
	for _, c := range got {
		select {
		case <-c.all:
		case <-time.NewTimer(4 * within).C:
			require.Fail(t, "a consumer did not get all events")
		}
	}
	assert.Less(t, most.Load()-min(before, most.Load()), uint64(400<<20), "64 MiB, what the consumers have, and garbage")
}

func TestWatcher_BlockedReplaysBlockNoOther(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		start := w.revision()
		for i := range 10 {
			w.commit(change{key: "dir/a", value: strconv.Itoa(i)})
		}
		release := make(chan struct{})
		all := make([]*recorder, 100) // more than the memory allows
		for i := range all {
			all[i] = newRecorder()
			_, err := watcher.Subscribe(watch.Prefix("dir/"), func(ctx context.Context, b watch.Batch) error {
				<-release
				return all[i].handle(ctx, b)
			}, watch.WithAfter(start))
			require.NoError(t, err)
		}
		time.Sleep(150 * time.Millisecond) // some have their first batch, and the others wait
		got := newRecorder()
		_, err := watcher.Subscribe(watch.Prefix("dir/"), got.handle, watch.WithAfter(start))
		require.NoError(t, err)
		got.revision(t, w.revision())
		assert.Len(t, got.events(), 10)
		close(release)
		for _, r := range all {
			r.revision(t, w.revision())
			assert.Len(t, r.events(), 10)
		}
	})
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestWatcher_BlockedReplayDoesNotBlockItsStream(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cli := srv.Client(t)
	w := newWatcher(t, cli)
	start := mustPut(t, cli, "h/k", "0")
	for i := range 300 {
		mustPut(t, cli, "h/k", strconv.Itoa(i))
	}
	var got []*recorder
	var subs []*watch.Subscription
	for i := range 15 {
		sub, r := subscribe(t, w, watch.Key(fmt.Sprintf("w/%02d", i)))
		subs, got = append(subs, sub), append(got, r)
	}
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := newRecorder()
	_, err := w.Subscribe(watch.Prefix("h/"), func(ctx context.Context, b watch.Batch) error {
		once.Do(func() {
			close(held)
			<-release
		})
		return slow.handle(ctx, b)
	}, watch.WithAfter(start))
	require.NoError(t, err)
	<-held
	for i := range 100 { // more than may wait for a consumer
		mustPut(t, cli, "h/k", strconv.Itoa(i))
	}
	for i := range subs {
		got[i].revision(t, mustPut(t, cli, fmt.Sprintf("w/%02d", i), "v"))
		assert.Zero(t, subs[i].Status().Reopened)
	}
	close(release)
	slow.revision(t, start+400)
	assert.Len(t, slow.events(), 400)
}
