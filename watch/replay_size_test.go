package watch_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

// putMany puts n keys below dir, 100 in a transaction, and returns the revision of the first and of
// the last.
func putMany(tb testing.TB, cli *clientv3.Client, dir string, n int) (from, to int64) {
	tb.Helper()
	for i := 0; i < n; i += 100 {
		ops := make([]clientv3.Op, 0, 100)
		for j := i; j < min(i+100, n); j++ {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("%ssome/longer/key/%06d", dir, j), "value"))
		}
		resp, err := cli.Txn(tb.Context()).Then(ops...).Commit()
		require.NoError(tb, err)
		if to = resp.Header.Revision; from == 0 {
			from = to
		}
	}
	return from, to
}

// etcd needs minutes to split the deletion of 60,000 keys into fragments, and is silent meanwhile.
func TestWatcher_DeliversMassDelete(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Start(t).Client(t)
	n := size(60_000, 200_000)
	_, last := putMany(t, cli, "dir/", n)
	w := newWatcher(t, cli)
	events, changes := subscribe(t, w, watch.Prefix("dir/"))
	state, mirrored := subscribe(t, w, watch.Prefix("dir/"), watch.WithSnapshot())
	peer := cli.Watch(t.Context(), "dir/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-peer
	began := time.Now()
	// a slow server applies it after the error
	_, _ = cli.Delete(t.Context(), "dir/", clientv3.WithPrefix())
	require.Len(t, (<-peer).Events, n)
	limit := 10*time.Since(began) + within
	for _, got := range []*recorder{changes, mirrored} {
		require.Eventually(t, func() bool {
			all := got.all()
			return len(all) > 0 && all[len(all)-1].Revision > last && !all[len(all)-1].More
		}, limit, 10*time.Millisecond)
	}
	require.Len(t, changes.all(), 1, "one transaction is one batch")
	assert.Len(t, changes.events(), n)
	gone := 0
	for _, e := range mirrored.events() {
		if e.Type == watch.Delete {
			gone++
		}
	}
	assert.Equal(t, n, gone)
	require.NoError(t, events.Err())
	require.NoError(t, state.Err())
}

// fakeSplittingServer is a server whose revision 7 has many events. It splits them where that is
// requested, and counts the requests.
type fakeSplittingServer struct {
	mu            sync.Mutex
	whole, splits int           // replays that were requested
	pause         time.Duration // before each fragment
	forced        bool          // splits although not requested
	live          chan struct{} // closed when the events happen
	value         int           // the size of each of four
}

func (s *fakeSplittingServer) serve(stream pb.Watch_WatchServer) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		if create := req.GetCreateRequest(); create != nil {
			if err := s.watch(stream, create); err != nil {
				return err
			}
		}
	}
}

// watch confirms a watch and sends the events, unless it begins after them.
func (s *fakeSplittingServer) watch(stream pb.Watch_WatchServer, create *pb.WatchCreateRequest) error {
	header := &pb.ResponseHeader{ClusterId: 1, RaftTerm: 1, Revision: 5}
	select {
	case <-s.live:
		header.Revision = 7
	default:
	}
	s.mu.Lock()
	switch {
	case create.GetStartRevision() == 0:
	case create.GetFragment():
		s.splits++
	default:
		s.whole++
	}
	s.mu.Unlock()
	if err := stream.Send(&pb.WatchResponse{Header: header, WatchId: 3, Created: true}); err != nil {
		return err
	}
	if header.GetRevision() == 7 && create.GetStartRevision() == 0 {
		return nil
	}
	<-s.live
	header = &pb.ResponseHeader{ClusterId: 1, RaftTerm: 1, Revision: 7}
	events := make([]*mvccpb.Event, 4)
	for i := range events {
		events[i] = &mvccpb.Event{Kv: &mvccpb.KeyValue{
			Key: []byte(strconv.Itoa(i)), Value: []byte(strings.Repeat("x", max(s.value, 40<<10))), ModRevision: 7, CreateRevision: 7, Version: 1,
		}}
	}
	if !create.GetFragment() && !s.forced {
		return stream.Send(&pb.WatchResponse{Header: header, WatchId: 3, Events: events})
	}
	for i := range events {
		time.Sleep(s.pause)
		if err := stream.Send(&pb.WatchResponse{Header: header, WatchId: 3, Fragment: i < 3, Events: events[i : i+1]}); err != nil {
			return err
		}
	}
	return nil
}

func TestWatcher_RequestsFragmentsOnlyAfterRefusalForSize(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1 << 20, 64 << 10} {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			t.Parallel()
			s := &fakeSplittingServer{live: make(chan struct{})}
			w := newWatcher(t, etcdtest.NewClient(t, []string{startFakeServer(t, s.serve)}, func(c *clientv3.Config) {
				c.MaxCallSendMsgSize, c.MaxCallRecvMsgSize = 32<<10, limit
			}))
			_, got := subscribe(t, w, watch.Prefix(""))
			close(s.live)
			got.revision(t, 7)
			require.Len(t, got.all(), 1)
			assert.Equal(t, []string{"0", "1", "2", "3"}, keysOf(got.all()[0]))
			s.mu.Lock()
			defer s.mu.Unlock()
			if limit == 1<<20 {
				assert.Zero(t, s.splits)
			} else {
				assert.Positive(t, s.splits)
			}
		})
	}
}

// A replay that is alone expects responses of up to 12 MiB. It requests one that is larger again,
// whole where its memory allows that.
func TestWatcher_RequestsReplayAgainBySize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value, whole, splits int // the size of each of four values, and the requests
	}{
		{value: 100 << 10, whole: 1},
		{value: 5 << 19, whole: 1},
		{value: 3 << 20, whole: 2},
		{value: 9 << 20, whole: 1, splits: 1},
	} {
		t.Run(strconv.Itoa(c.value), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &fakeSplittingServer{live: make(chan struct{}), value: c.value}
				close(s.live)
				w := newWatcher(t, startFakeServerInMemory(t, s.serve))
				got := newRecorder()
				_, err := w.Subscribe(watch.Prefix(""), got.handle, watch.WithAfter(6))
				require.NoError(t, err)
				got.revision(t, 7)
				require.Len(t, got.all(), 1)
				assert.Equal(t, []string{"0", "1", "2", "3"}, keysOf(got.all()[0]))
				s.mu.Lock()
				defer s.mu.Unlock()
				assert.Equal(t, []int{c.whole, c.splits}, []int{s.whole, s.splits})
			})
		})
	}
}

// Each fragment takes less than the 4 s after which a silent stream is dead, and all of them take
// more.
func TestWatcher_CountsFragmentsAsResponses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSplittingServer{live: make(chan struct{}), forced: true, pause: 3500 * time.Millisecond}
		w := newWatcher(t, startFakeServerInMemory(t, s.serve))
		sub, got := subscribe(t, w, watch.Prefix(""))
		close(s.live)
		got.revision(t, 7)
		assert.Equal(t, []string{"0", "1", "2", "3"}, keysOf(got.all()[0]))
		assert.Zero(t, sub.Status().Reopened)
	})
}

func TestWatcher_StateWatchListsAfterTwoStalls(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		const n = 34_000 // keys, so that reading one revision looks cheaper than a list
		changes := make([]change, n)
		for i := range changes {
			changes[i] = change{key: "dir/" + strconv.Itoa(i), value: "v"}
		}
		w.commit(changes...)
		_, events := subscribe(t, watcher, watch.Prefix("dir/"))
		_, state := subscribe(t, watcher, watch.Prefix("dir/"), watch.WithSnapshot())
		w.set(func() { w.muteReplays = true })
		w.breakOff(nil)
		rev := w.commit(change{key: "dir/0", value: "new"})
		began := time.Now()
		state.revision(t, rev)
		assert.LessOrEqual(t, time.Since(began), 15*time.Second, "two replays of 4 s and 8 s")
		last := state.all()[len(state.all())-1]
		assert.Equal(t, watch.Resync, last.Kind)
		assert.Equal(t, "new", string(state.events()[len(state.events())-1].Value))
		assert.Empty(t, events.all(), "an events watch cannot list")
		w.set(func() {
			w.muteReplays = false
			for f := range w.watches {
				f.mute = false
			}
		})
		events.revision(t, rev)
		assert.Equal(t, []string{"dir/0"}, keysOf(events.all()[0]))
	})
}

func TestWatcher_StateWatchWithAfterListsAfterTwoStalls(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		const n = 34_000
		changes := make([]change, n)
		for i := range changes {
			changes[i] = change{key: "dir/" + strconv.Itoa(i), value: "v"}
		}
		known := w.commit(changes...)
		rev := w.commit(change{key: "dir/0", value: "new"})
		w.set(func() { w.muteReplays = true })
		state := newRecorder()
		sub, err := watcher.Subscribe(watch.Prefix("dir/"), state.handle, watch.WithSnapshot(), watch.WithAfter(known))
		require.NoError(t, err)
		time.Sleep(70 * time.Second) // two replays of 32 s, on a stream that answers another watch
		ready(t, sub)
		assert.Equal(t, "new", string(state.events()[0].Value))
		assert.Equal(t, watch.Resync, state.all()[0].Kind)
		assert.Equal(t, rev, state.all()[0].Revision)
	})
}

// client/v3 reopens a watch without end, and reports nothing, if a response is too large.
func TestWatcher_RequestsFragmentsOfUserWatcherAfterTwoStalls(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		start := w.revision()
		_, got := subscribe(t, watcher, watch.Prefix("dir/"))
		w.set(func() { w.tooLarge = true })
		w.breakOff(nil)
		rev := w.commit(change{key: "dir/a", value: "1"})
		got.revision(t, rev)
		assert.Len(t, got.events(), 1)
		replayed := newRecorder()
		_, err := watcher.Subscribe(watch.Prefix("dir/"), replayed.handle, watch.WithAfter(start))
		require.NoError(t, err)
		time.Sleep(70 * time.Second) // two replays of 32 s, on a stream that answers another watch
		replayed.revision(t, rev)
		assert.Len(t, replayed.events(), 1)
	})
}
