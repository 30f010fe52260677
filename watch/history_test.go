package watch_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/watch"
)

func TestWatcher_EventsWatchEndsWithCompactedError(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"))
		seen := w.commit(change{key: "dir/a", value: "1"})
		got.revision(t, seen)
		w.set(func() { w.mute = true })
		w.breakOff(nil)
		for i := range 9 {
			w.commit(change{key: "dir/a", value: strconv.Itoa(i)})
		}
		w.compactTo(w.revision())
		w.stopFaults()
		var lost *watch.CompactedError
		require.ErrorAs(t, ended(t, sub), &lost)
		require.ErrorIs(t, sub.Err(), watch.ErrCompacted)
		assert.Equal(t, watch.CompactedError{After: seen, Oldest: w.revision()}, *lost)
		assert.Len(t, got.events(), 1)
	})
}

func TestWatcher_StateWatchResyncsAfterCompaction(t *testing.T) {
	t.Parallel()
	var told []string
	var resyncs []scope.Result
	hook := scopetest.Option[watch.Option](scope.Hooks{
		WatchResync: func(_ context.Context, selector string, folded int) {
			told = append(told, fmt.Sprint(selector, " ", folded))
		},
		Operation: func(_ context.Context, op scope.Operation) (context.Context, func(scope.Result)) {
			assert.Equal(t, scope.Operation{Package: "watch", Name: "resync"}, op)
			return nil, func(r scope.Result) { resyncs = append(resyncs, r) }
		},
	})
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		w.commit(change{key: "dir/b", value: "0"}, change{key: "dir/c", value: "0"}, change{key: "dir/d", value: "0"})
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"), watch.WithSnapshot())
		w.set(func() { w.mute = true })
		w.breakOff(nil)
		w.commit(change{key: "dir/a", value: "1"})             // changed
		w.commit(change{key: "dir/b", del: true})              // deleted
		w.commit(change{key: "dir/c", del: true})              // replaced
		replaced := w.commit(change{key: "dir/c", value: "2"}) //
		w.commit(change{key: "dir/x", value: "1"})
		w.commit(change{key: "dir/x", del: true}) // created and deleted
		w.compactTo(w.revision())
		w.stopFaults()
		got.until(t, "the resync", func(b []watch.Batch) bool { return len(b) == 2 })
		b := got.all()[1]
		assert.Equal(t, watch.Resync, b.Kind)
		assert.Equal(t, w.revision(), b.Revision)
		assert.False(t, b.More)
		require.Equal(t, []string{"dir/a", "dir/c", "dir/b"}, keysOf(b), "an unchanged key was delivered")
		assert.Equal(t, replaced, b.Events[1].ModRevision)
		assert.Equal(t, watch.Event{Type: watch.Delete, Key: "dir/b", ModRevision: b.Revision}, b.Events[2])
		synctest.Wait()
		assert.Equal(t, []string{"dir/* 3"}, told)
		require.Len(t, resyncs, 1)
		require.NoError(t, resyncs[0].Err)
		assert.Equal(t, b.Revision, resyncs[0].Revision)
		assert.Positive(t, resyncs[0].Attempts)
		assert.Equal(t, uint64(1), watcher.Stats().Resyncs)
		require.NoError(t, sub.Err())
	}, hook)
}

func TestWatcher_ResyncThatEndsLoopHasNotFailed(t *testing.T) {
	t.Parallel()
	var resyncs []scope.Result
	hook := scopetest.Option[watch.Option](scope.Hooks{
		Operation: func(context.Context, scope.Operation) (context.Context, func(scope.Result)) {
			return nil, func(r scope.Result) { resyncs = append(resyncs, r) }
		},
	})
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		w.commit(change{key: "dir/a", value: "0"})
		listed, done := make(chan struct{}, 1), make(chan struct{})
		go func() {
			defer close(done)
			for b, err := range watcher.Watch(t.Context(), watch.Prefix("dir/"), watch.WithSnapshot()) {
				assert.NoError(t, err)
				if err != nil || b.Kind == watch.Resync {
					break
				}
				listed <- struct{}{}
			}
		}()
		<-listed
		w.set(func() { w.mute = true })
		w.breakOff(nil)
		w.commit(change{key: "dir/a", value: "1"})
		w.commit(change{key: "dir/a", value: "2"})
		w.compactTo(w.revision())
		w.stopFaults()
		<-done
		require.Len(t, resyncs, 1)
		assert.NoError(t, resyncs[0].Err)
	}, hook)
}

func TestWatcher_ReportsRewrittenHistory(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		for i := range 20 {
			w.commit(change{key: "dir/a", value: strconv.Itoa(i)})
		}
		w.commit(change{key: "dir/b", value: "0"})
		events, _ := subscribe(t, watcher, watch.Prefix("dir/"))
		_, state := subscribe(t, watcher, watch.Prefix("dir/"), watch.WithSnapshot())
		w.set(func() { w.mute = true })
		w.wipe()
		w.commit(change{key: "dir/a", value: "new"})
		w.stopFaults()
		require.ErrorIs(t, ended(t, events), watch.ErrHistoryRewritten)
		state.until(t, "the resync", func(b []watch.Batch) bool { return len(b) >= 2 })
		b := state.all()[1]
		assert.Equal(t, watch.Resync, b.Kind)
		assert.Equal(t, w.revision(), b.Revision)
		assert.Equal(t, []string{"dir/a", "dir/b"}, keysOf(b))
		rev := w.commit(change{key: "dir/c", value: "live"})
		state.until(t, "the live event", func(b []watch.Batch) bool { return b[len(b)-1].Revision == rev })
	})
}

func TestWatcher_ListsOnlyHistoryOfWatch(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		w.set(func() { w.unread = true })
		got := newRecorder()
		sub, err := watcher.Subscribe(watch.Prefix("dir/"), got.handle, watch.WithSnapshot())
		require.NoError(t, err)
		time.Sleep(time.Second) // the watch is open, and the list is tried
		w.set(func() { w.refuse = func(int) error { return rpctypes.ErrNoLeader } })
		w.wipe()
		for i := range 10 {
			w.commit(change{key: "dir/b", value: strconv.Itoa(i)})
		}
		w.set(func() { w.unread = false })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Empty(t, got.all())
		w.stopFaults()
		got.revision(t, w.revision())
		ready(t, sub)
		require.Len(t, got.all(), 1, "an event was delivered twice")
		assert.Equal(t, watch.Snapshot, got.all()[0].Kind)
		assert.Equal(t, []string{"dir/b"}, keysOf(got.all()[0]))
	})
}

func TestWatcher_ReplaysOnlyHistoryOfWatch(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		stored := w.commit(change{key: "dir/a", value: "stored"})
		w.commit(change{key: "dir/a", value: "since"})
		subscribe(t, watcher, watch.Prefix("dir/")) // keeps the server-side watch open
		w.set(func() { w.refuse = func(int) error { return rpctypes.ErrNoLeader } })
		got := newRecorder()
		sub, err := watcher.Subscribe(watch.Prefix("dir/"), got.handle, watch.WithAfter(stored))
		require.NoError(t, err)
		time.Sleep(time.Second) // the replay is tried
		w.set(func() { w.refuse, w.refuseNow = nil, true })
		w.wipe()
		for i := range 10 {
			w.commit(change{key: "dir/b", value: strconv.Itoa(i)})
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Empty(t, got.all())
		w.set(func() { w.refuseNow = false })
		require.ErrorIs(t, ended(t, sub), watch.ErrHistoryRewritten)
		assert.Empty(t, got.all())
	})
}

func TestWatcher_LaggingMemberIsNotAnotherHistory(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"))
		for i := range 10 {
			w.commit(change{key: "dir/a", value: strconv.Itoa(i)})
		}
		got.revision(t, w.revision())
		w.set(func() { w.lagging = 5 })
		w.breakOff(nil)
		time.Sleep(3 * time.Second)
		for i := range 3 {
			w.commit(change{key: "dir/a", value: strconv.Itoa(i)})
		}
		w.stopFaults() // the member has caught up
		got.revision(t, w.revision())
		require.NoError(t, sub.Err())
		assert.Len(t, got.events(), 13)
	})
}

func TestWatcher_ProgressProtectsQuietWatchFromCompaction(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"))
		for i := range 50 {
			w.commit(change{key: "elsewhere", value: strconv.Itoa(i)})
		}
		time.Sleep(37 * time.Second)
		w.compactTo(w.revision() - 1)
		w.breakOff(nil)
		got.revision(t, w.commit(change{key: "dir/a", value: "1"}))
		require.NoError(t, sub.Err(), "no event was missed")
	})
}

func TestWatcher_WithAfterCompactedDeliversWholeState(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		stored := w.revision()
		w.commit(change{key: "dir/b", value: "1"})
		w.commit(change{key: "dir/c", value: "1"})
		w.compactTo(w.revision())
		b := first(t, watcher.Watch(t.Context(), watch.Prefix("dir/"), watch.WithAfter(stored), watch.WithSnapshot()))
		assert.Equal(t, watch.Resync, b.Kind)
		assert.Equal(t, []string{"dir/a", "dir/b", "dir/c"}, keysOf(b))
		for _, err := range watcher.Watch(t.Context(), watch.Prefix("dir/"), watch.WithAfter(stored)) {
			var lost *watch.CompactedError
			require.ErrorAs(t, err, &lost)
			assert.Equal(t, watch.CompactedError{After: stored, Oldest: w.revision()}, *lost)
		}
	})
}

func TestWatcher_WithAfterDeliversDeletesSinceRevision(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		w.commit(change{key: "dir/b", value: "1"})
		stored := w.revision()
		w.commit(change{key: "dir/b", del: true})
		w.commit(change{key: "dir/c", value: "1"})
		m := newMirror()
		m.keys["dir/a"], m.keys["dir/b"] = "0", "1" // what the consumer has stored
		for b, err := range watcher.Watch(t.Context(), watch.Prefix("dir/"), watch.WithAfter(stored), watch.WithSnapshot()) {
			require.NoError(t, err)
			m.apply(b)
			if !b.More && b.Revision >= w.revision() {
				break
			}
		}
		require.NoError(t, m.err)
		assert.Equal(t, w.state(), m.keys)
	})
}

func TestWatcher_WithAfterDetectsRewrittenHistory(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]watch.Option{"events": nil, "state": {watch.WithSnapshot()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
				for i := range 50 {
					w.commit(change{key: "dir/a", value: strconv.Itoa(i)})
				}
				w.set(func() { w.refuse = func(int) error { return rpctypes.ErrNoLeader } })
				got := newRecorder()
				sub, err := watcher.Subscribe(watch.Prefix("dir/"), got.handle, append(opts, watch.WithAfter(w.revision()))...)
				require.NoError(t, err)
				time.Sleep(10 * time.Second) // reads succeed, watches are refused
				w.wipe()
				w.commit(change{key: "dir/b", value: "1"})
				w.stopFaults()
				if opts == nil {
					require.ErrorIs(t, ended(t, sub), watch.ErrHistoryRewritten)
					return
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if sub.Err() != nil {
					require.ErrorIs(t, sub.Err(), watch.ErrHistoryRewritten)
					return
				}
				require.NotEmpty(t, got.all())
				assert.Equal(t, watch.Resync, got.all()[0].Kind)
				assert.Equal(t, []string{"dir/b"}, keysOf(got.all()[0]))
			})
		})
	}
}

func TestWatcher_SnapshotAcrossRewriteEndsAsResync(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		for i := range 2000 { // several pages
			w.commit(change{key: fmt.Sprintf("dir/%05d", i), value: "old"})
		}
		got := newRecorder()
		var once sync.Once
		sub, err := watcher.Subscribe(watch.Prefix("dir/"), func(ctx context.Context, b watch.Batch) error {
			once.Do(func() {
				w.set(func() { w.unread = true })
				w.set(func() { w.mute = true })
				w.wipe()
				w.commit(change{key: "dir/new", value: "1"})
			})
			return got.handle(ctx, b)
		}, watch.WithSnapshot())
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Len(t, got.all(), 1)
		require.True(t, got.all()[0].More)
		w.set(func() { w.unread = false })
		w.stopFaults()
		ready(t, sub)
		state := map[string]bool{}
		for _, b := range got.all() {
			for _, e := range b.Events {
				if e.Type == watch.Delete {
					require.Equal(t, watch.Resync, b.Kind, "a snapshot contains only puts")
					delete(state, e.Key)
				} else {
					state[e.Key] = true
				}
			}
		}
		assert.Equal(t, map[string]bool{"dir/new": true}, state)
	})
}

func TestWatcher_FirstResyncIsWholeState(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		w.commit(change{key: "dir/b", value: "1"})
		stored := w.revision()
		w.commit(change{key: "dir/b", del: true})
		w.commit(change{key: "dir/c", value: "1"})
		b := first(t, watcher.Watch(t.Context(), watch.Prefix("dir/"), watch.WithAfter(stored), watch.WithSnapshot()))
		assert.Equal(t, watch.Resync, b.Kind)
		require.Equal(t, []string{"dir/a", "dir/c", "dir/b"}, keysOf(b), "unchanged, changed and deleted keys")
		assert.Equal(t, watch.Delete, b.Events[2].Type)
	})
}

// A replay breaks, and the next member lags behind the term, but has more of the log than the
// watch.
func TestWatcher_ReadsHistoryFromMemberWithLowerTerm(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"))
		down := status.Error(codes.Internal, "EOF")
		w.set(func() { w.refuse = func(int) error { return down } })
		w.breakOff(nil)
		for i := range 20 {
			w.commit(change{key: "dir/a", value: strconv.Itoa(i)})
		}
		w.elect(false)
		w.set(func() {
			base := w.opened
			w.refuse = func(n int) error {
				// 1: now, of a member that is up to date. 2: the replay there. 3: now, of one that
				// lags
				if n != base+2 {
					return nil
				}
				w.lagging = 2
				return down
			}
		})
		time.Sleep(20 * time.Second)
		w.stopFaults()
		got.revision(t, w.commit(change{key: "dir/a", value: "last"}))
		require.NoError(t, sub.Err())
		assert.Len(t, got.events(), 21)
	})
}

func TestWatcher_ReopensAfterEventsOutOfOrder(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		_, got := subscribe(t, watcher, watch.Prefix("dir/"))
		w.set(func() { w.shuffle = true })
		w.breakOff(nil)
		for i := range 3 {
			w.commit(change{key: "dir/a", value: strconv.Itoa(i)})
		}
		time.Sleep(5 * time.Second)
		assert.Empty(t, got.events())
		require.Eventually(t, func() bool { // there is no error while it is being opened once more
			err := watcher.ServerWatches()[0].Err
			return err != nil && strings.Contains(err.Error(), "out of order")
		}, 10*time.Second, time.Millisecond)
		w.set(func() { w.shuffle = false })
		got.revision(t, w.revision())
		assert.Len(t, got.events(), 3)
	})
}
