package watch_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/watch"
)

// bubble runs a test in a world of its own, where time passes when nothing else happens.
func bubble(t *testing.T, f func(t *testing.T, w *world, watcher *watch.Watcher), o ...watch.WatcherOption) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		w.commit(change{key: "dir/a", value: "0"})
		watcher := watch.New(w.client(t), o...)
		f(t, w, watcher)
		require.NoError(t, watcher.Close())
		assert.False(t, w.closed, "the user's watcher was closed")
	})
}

func TestAServerThatRefusesIsNotStormed(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
		w.set(func() { w.refuse = func(int) error { return status.Error(codes.Internal, "stream terminated") } })
		sub, err := watcher.Subscribe(watch.Prefix("dir/"), newRecorder().handle)
		require.NoError(t, err)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		w.mu.Lock()
		opened := w.opened
		w.mu.Unlock()
		assert.LessOrEqual(t, opened, 20)
		assert.GreaterOrEqual(t, opened, 3)
		assert.Equal(t, watch.StateSyncing, sub.Status().State)
		require.Len(t, watcher.ServerWatches(), 1)
		assert.Equal(t, watch.StateStale, watcher.ServerWatches()[0].State)
		require.Error(t, watcher.ServerWatches()[0].Err)
		w.calm()
		time.Sleep(5 * time.Second)
		ready(t, sub)
	})
}

func TestASilentStreamIsLeftWithinFiveSeconds(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"))
		for f := range w.watches {
			w.set(func() { f.mute = true }) // the stream stays open, and nothing comes
		}
		asked := time.Now()
		rev := w.commit(change{key: "dir/a", value: "1"})
		got.revision(t, rev)
		assert.LessOrEqual(t, time.Since(asked), 5*time.Second)
		assert.Equal(t, uint64(1), sub.Status().Reopened)
	})
}

func TestAQuietStreamIsNotLeft(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
		sub, _ := subscribe(t, watcher, watch.Prefix("dir/"))
		time.Sleep(10 * time.Minute)
		assert.Zero(t, sub.Status().Reopened)
		assert.Equal(t, watch.StateLive, sub.Status().State)
		assert.Equal(t, 1, w.opened)
	})
}

func TestACallThatDoesNotReturnIsGivenUp(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
		w.set(func() { w.mute = true })
		sub, err := watcher.Subscribe(watch.Prefix("dir/"), newRecorder().handle)
		require.NoError(t, err)
		time.Sleep(3500 * time.Millisecond)
		w.calm()
		time.Sleep(5 * time.Second)
		ready(t, sub)
		assert.Equal(t, 2, w.opened)
	})
}

func TestOnlyARefusalInPlaceOfTheConfirmationIsFinal(t *testing.T) {
	t.Parallel()
	denied := errors.New("rpc error: code = PermissionDenied desc = etcdserver: permission denied")
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"))
		w.breakOff(denied) // of somebody else on the same stream
		rev := w.commit(change{key: "dir/a", value: "1"})
		got.revision(t, rev)
		w.set(func() { w.refuse = func(int) error { return denied } })
		w.breakOff(nil)
		require.ErrorIs(t, ended(t, sub), watch.ErrPermission)
		w.calm()
		_, got = subscribe(t, watcher, watch.Prefix("dir/")) // the failure is not remembered
		got.revision(t, w.commit(change{key: "dir/a", value: "2"}))
	})
}

func TestErrorsThatAreNoEndAreNotTheEnd(t *testing.T) {
	t.Parallel()
	for _, why := range []error{
		errors.New("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"),
		errors.New("rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
		errors.New("rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old"),
		rpctypes.ErrNoLeader, status.Error(codes.ResourceExhausted, "grpc: received message larger than max (5 vs. 4)"),
		status.Error(codes.Canceled, "context canceled"), context.DeadlineExceeded, errors.New("something else"),
	} {
		t.Run(why.Error(), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
				w.refuse = func(n int) error {
					if n%3 == 1 {
						return why
					}
					return nil
				}
				sub, got := subscribe(t, watcher, watch.Prefix("dir/"))
				for range 3 {
					w.breakOff(why)
					got.revision(t, w.commit(change{key: "dir/a", value: "1"}))
				}
				require.NoError(t, sub.Err())
				assert.Len(t, got.events(), 3)
			})
		})
	}
}

func TestAWatchThatHasSeenNothingYetDoesNotStartOver(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
		_, got := subscribe(t, watcher, watch.Prefix("dir/"))
		for i := range 20 {
			w.breakOff(nil)
			rev := w.commit(change{key: "dir/a", value: strconv.Itoa(i)}) // while it is away
			got.revision(t, rev)
			assert.Len(t, got.all(), i+1, "neither an old event nor a missing one")
			assert.Equal(t, rev, got.all()[i].Revision)
		}
	})
}

func TestHistoryThatIsGoneEndsAnEventsWatchWithBothRevisions(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"))
		seen := w.commit(change{key: "dir/a", value: "1"})
		got.revision(t, seen)
		w.set(func() { w.mute = true })
		w.breakOff(nil)
		for i := range 9 {
			w.commit(change{key: "dir/a", value: strconv.Itoa(i)})
		}
		w.compactTo(w.revision())
		w.calm()
		var lost *watch.CompactedError
		require.ErrorAs(t, ended(t, sub), &lost)
		require.ErrorIs(t, sub.Err(), watch.ErrCompacted)
		assert.Equal(t, watch.CompactedError{After: seen, Oldest: w.revision()}, *lost)
		assert.Len(t, got.events(), 1)
	})
}

func TestHistoryThatIsGoneIsAResyncForAStateWatch(t *testing.T) {
	t.Parallel()
	var told []string
	hook := watch.WithResyncHook(func(selector string, folded int) { told = append(told, fmt.Sprint(selector, " ", folded)) })
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
		w.commit(change{key: "dir/b", value: "0"}, change{key: "dir/c", value: "0"}, change{key: "dir/d", value: "0"})
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"), watch.WithSnapshot())
		w.set(func() { w.mute = true })
		w.breakOff(nil)
		w.commit(change{key: "dir/a", value: "1"})             // changed
		w.commit(change{key: "dir/b", del: true})              // deleted
		w.commit(change{key: "dir/c", del: true})              // replaced
		replaced := w.commit(change{key: "dir/c", value: "2"}) //
		w.commit(change{key: "dir/x", value: "1"})
		w.commit(change{key: "dir/x", del: true}) // came and went
		w.compactTo(w.revision())
		w.calm()
		got.until(t, "the resync", func(b []watch.Batch) bool { return len(b) == 2 })
		b := got.all()[1]
		assert.Equal(t, watch.Resync, b.Kind)
		assert.Equal(t, w.revision(), b.Revision)
		assert.False(t, b.More)
		require.Equal(t, []string{"dir/a", "dir/c", "dir/b"}, keysOf(b), "what did not change is not told")
		assert.Equal(t, replaced, b.Events[1].ModRevision)
		assert.Equal(t, watch.Event{Type: watch.Delete, Key: "dir/b", ModRevision: b.Revision}, b.Events[2])
		synctest.Wait()
		assert.Equal(t, []string{"dir/* 3"}, told)
		assert.Equal(t, uint64(1), watcher.Stats().Resyncs)
		require.NoError(t, sub.Err())
	}, hook)
}

func TestAnotherHistoryIsReported(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
		for i := range 20 {
			w.commit(change{key: "dir/a", value: strconv.Itoa(i)})
		}
		w.commit(change{key: "dir/b", value: "0"})
		events, _ := subscribe(t, watcher, watch.Prefix("dir/"))
		_, state := subscribe(t, watcher, watch.Prefix("dir/"), watch.WithSnapshot())
		w.set(func() { w.mute = true })
		w.wipe()
		w.commit(change{key: "dir/a", value: "new"})
		w.calm()
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

func TestAListIsNotReadFromAnotherHistoryThanTheWatch(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
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
		w.calm()
		got.revision(t, w.revision())
		ready(t, sub)
		require.NotEmpty(t, got.all())
		for _, b := range got.all() { // a resync may say once more what the snapshot said
			assert.Equal(t, []string{"dir/b"}, keysOf(b))
		}
	})
}

func TestAMemberThatLagsIsNotAnotherHistory(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
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
		w.calm() // the member has caught up
		got.revision(t, w.revision())
		require.NoError(t, sub.Err())
		assert.Len(t, got.events(), 13)
	})
}

func TestProgressKeepsAQuietWatchFromBeingCompactedAway(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"))
		for i := range 50 {
			w.commit(change{key: "elsewhere", value: strconv.Itoa(i)})
		}
		time.Sleep(2 * time.Second)
		w.compactTo(w.revision() - 1)
		w.breakOff(nil)
		got.revision(t, w.commit(change{key: "dir/a", value: "1"}))
		require.NoError(t, sub.Err(), "no event was missed")
	})
}

func TestAStoredRevisionWhoseHistoryIsGoneIsTheWholeState(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
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

func TestAStoredRevisionOfAStateWatchKnowsWhatWasDeletedSince(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
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

func TestACoalescingConsumerGetsTheLatestOfEachKey(t *testing.T) {
	t.Parallel()
	for name, buffer := range map[string]int{"within its buffer": 1000, "beyond its buffer": 8} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
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

func TestASlowConsumerGetsEverythingAndHoldsUpNobody(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
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

func TestAStateConsumerThatWasTooSlowIsResynced(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
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

func TestLateSubscribersJoinWithoutAGap(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
		_, early := subscribe(t, watcher, watch.Prefix("dir/"))
		start := w.revision()
		for i := range 30 {
			w.commit(change{key: key(i % 5), value: strconv.Itoa(i)})
		}
		early.revision(t, w.revision())
		_, after := subscribe(t, watcher, watch.Prefix("dir/"), watch.WithAfter(start))
		_, state := subscribe(t, watcher, watch.Prefix("dir/"), watch.WithSnapshot())
		_, live := subscribe(t, watcher, watch.Prefix("dir/"))
		for i := range 30 {
			w.commit(change{key: key(i % 5), value: strconv.Itoa(i)})
		}
		for _, r := range []*recorder{early, after, state, live} {
			r.revision(t, w.revision())
		}
		assert.Equal(t, early.events(), after.events())
		assert.Equal(t, early.events()[30:], live.events())
		assert.Equal(t, early.events()[30:], state.events()[6:])
		assert.Equal(t, 1, watcher.Stats().ServerWatches)
	})
}

func TestAStaleWatchSaysSinceWhenAndWhy(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world, watcher *watch.Watcher) {
		sub, _ := subscribe(t, watcher, watch.Prefix("dir/"))
		time.Sleep(10500 * time.Millisecond)
		lost := time.Now()
		w.set(func() { w.refuse = func(int) error { return rpctypes.ErrNoLeader } })
		w.breakOff(rpctypes.ErrNoLeader)
		time.Sleep(time.Minute)
		synctest.Wait()
		s := sub.Status()
		assert.Equal(t, watch.StateStale, s.State)
		assert.WithinDuration(t, lost, s.Since, time.Second)
		assert.Equal(t, s.Since, s.Heard)
		assert.ErrorContains(t, s.Err, "no leader")
		w.calm()
		time.Sleep(6 * time.Second)
		assert.Equal(t, watch.StateLive, sub.Status().State)
		assert.NoError(t, sub.Status().Err)
		time.Sleep(time.Hour)
		assert.WithinDuration(t, time.Now(), sub.Status().Heard, 1100*time.Millisecond)
	})
}
