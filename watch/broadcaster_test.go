package watch_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

// runInBubble runs a test with a fakeEtcd of its own in a synctest bubble, where time passes when
// nothing else happens.
func runInBubble(t *testing.T, f func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher), o ...watch.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newFakeEtcd(1)
		w.commit(change{key: "dir/a", value: "0"})
		watcher := etcdtest.Must(watch.New(w.client(t), o...))
		f(t, w, watcher)
		require.NoError(t, watcher.Close())
		assert.False(t, w.closed, "the user's watcher was closed")
	})
}

func TestWatcher_BacksOffWhileServerRefuses(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
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
		w.stopFaults()
		time.Sleep(5 * time.Second)
		ready(t, sub)
	})
}

func TestWatcher_LeavesSilentStreamWithinFiveSeconds(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"))
		time.Sleep(time.Second)
		for f := range w.watches {
			w.set(func() { f.mute = true }) // the stream stays open and sends nothing
		}
		asked := time.Now()
		rev := w.commit(change{key: "dir/a", value: "1"})
		if err := sub.Refresh(t.Context()); err != nil { // otherwise it continued with the next stream
			require.ErrorIs(t, err, watch.ErrUnavailable)
		}
		got.revision(t, rev)
		assert.LessOrEqual(t, time.Since(asked), 5*time.Second)
		assert.Equal(t, uint64(1), sub.Status().Reopened)
	})
}

func TestWatcher_LeavesIdleSilentStreamWithin40Seconds(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"))
		time.Sleep(time.Minute)
		for f := range w.watches {
			w.set(func() { f.mute = true })
		}
		began := time.Now()
		rev := w.commit(change{key: "dir/a", value: "1"})
		for sub.Status().Reopened == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		assert.LessOrEqual(t, time.Since(began), 41*time.Second)
		got.revision(t, rev)
		assert.Equal(t, uint64(1), sub.Status().Reopened)
	})
}

func TestSubscription_RefreshUpdatesHeard(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, _ *fakeEtcd, watcher *watch.Watcher) {
		sub, _ := subscribe(t, watcher, watch.Prefix("dir/"))
		time.Sleep(20 * time.Second)
		assert.GreaterOrEqual(t, time.Since(sub.Status().Heard), 10*time.Second, "progress was requested without a need")
		called := time.Now()
		require.NoError(t, sub.Refresh(t.Context()))
		assert.False(t, sub.Status().Heard.Before(called))
		assert.Less(t, time.Since(called), 100*time.Millisecond)
		ctx, stop := context.WithCancel(t.Context())
		stop()
		time.Sleep(time.Second)
		require.ErrorIs(t, sub.Refresh(ctx), context.Canceled)
		require.NoError(t, sub.Close())
		require.ErrorIs(t, sub.Refresh(t.Context()), watch.ErrClosed)
	})
}

// The fake answers each request, so the number of answers is that of requests.
func TestWatcher_RequestsProgressOfIdleStreamTwiceAMinute(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		subscribe(t, watcher, watch.Prefix("dir/"))
		time.Sleep(time.Minute)
		before := w.progressRequests()
		time.Sleep(time.Hour)
		assert.InDelta(t, 120, w.progressRequests()-before, 10)
	})
}

func TestWatcher_KeepsQuietStream(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		sub, _ := subscribe(t, watcher, watch.Prefix("dir/"))
		time.Sleep(10 * time.Minute)
		assert.Zero(t, sub.Status().Reopened)
		assert.Equal(t, watch.StateLive, sub.Status().State)
		assert.Equal(t, 1, w.opened)
	})
}

func TestWatcher_AbandonsWatchCallThatBlocks(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		w.set(func() { w.mute = true })
		sub, err := watcher.Subscribe(watch.Prefix("dir/"), newRecorder().handle)
		require.NoError(t, err)
		time.Sleep(3500 * time.Millisecond)
		w.stopFaults()
		time.Sleep(5 * time.Second)
		ready(t, sub)
		assert.Equal(t, 2, w.opened)
	})
}

func TestWatcher_OnlyRefusalOfCreationIsPermanent(t *testing.T) {
	t.Parallel()
	denied := errors.New("rpc error: code = PermissionDenied desc = etcdserver: permission denied")
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		sub, got := subscribe(t, watcher, watch.Prefix("dir/"))
		w.breakOff(denied) // of another watch on the same stream
		rev := w.commit(change{key: "dir/a", value: "1"})
		got.revision(t, rev)
		w.set(func() { w.refuse = func(int) error { return denied } })
		w.breakOff(nil)
		require.ErrorIs(t, ended(t, sub), watch.ErrPermission)
		w.stopFaults()
		_, got = subscribe(t, watcher, watch.Prefix("dir/")) // the failure was not kept
		got.revision(t, w.commit(change{key: "dir/a", value: "2"}))
	})
}

func TestWatcher_RetriesTemporaryErrors(t *testing.T) {
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
			runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
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

func TestWatcher_ReopensBeforeFirstEventWithoutGap(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		_, got := subscribe(t, watcher, watch.Prefix("dir/"))
		for i := range 20 {
			w.breakOff(nil)
			rev := w.commit(change{key: "dir/a", value: strconv.Itoa(i)}) // while the stream is down
			got.revision(t, rev)
			assert.Len(t, got.all(), i+1, "an event is old or missing")
			assert.Equal(t, rev, got.all()[i].Revision)
		}
	})
}

func TestWatcher_LateSubscriberJoinsWithoutGap(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
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

func TestSubscription_StatusOfStaleWatchHasSinceAndErr(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		sub, _ := subscribe(t, watcher, watch.Prefix("dir/"))
		time.Sleep(10500 * time.Millisecond)
		lost := time.Now()
		w.set(func() { w.refuse = func(int) error { return rpctypes.ErrNoLeader } })
		w.breakOff(rpctypes.ErrNoLeader)
		time.Sleep(time.Minute)
		synctest.Wait()
		s := sub.Status()
		assert.Equal(t, watch.StateStale, s.State)
		assert.WithinDuration(t, lost, s.Since, 36*time.Second, "Heard is wrong")
		assert.ErrorContains(t, s.Err, "no leader")
		w.stopFaults()
		time.Sleep(6 * time.Second)
		assert.Equal(t, watch.StateLive, sub.Status().State)
		assert.NoError(t, sub.Status().Err)
		time.Sleep(time.Hour)
		assert.WithinDuration(t, time.Now(), sub.Status().Heard, 36100*time.Millisecond)
	})
}

func TestSubscription_HeardCoversHandledEventsOnly(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		entered, release := make(chan struct{}), make(chan struct{})
		sub, err := watcher.Subscribe(watch.Prefix("dir/"), func(context.Context, watch.Batch) error {
			entered <- struct{}{}
			<-release
			return nil
		})
		require.NoError(t, err)
		ready(t, sub)
		time.Sleep(time.Hour)
		fresh := func() bool { return time.Since(sub.Status().Heard) <= 36100*time.Millisecond }
		assert.True(t, fresh(), "no progress was requested of a quiet watch")
		w.commit(change{key: "dir/a", value: "1"})
		w.commit(change{key: "dir/a", value: "2"})
		held := time.Now()
		for range 2 { // the first is being handled while the second waits; then the second is
			<-entered
			time.Sleep(time.Minute)
			assert.False(t, sub.Status().Heard.After(held), "Heard covers an event that was not handled")
			release <- struct{}{}
		}
		require.NoError(t, sub.Refresh(t.Context()))
		assert.True(t, fresh())
	})
}
