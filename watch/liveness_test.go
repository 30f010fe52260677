package watch_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdkit/etcdkit/watch"
)

// fakeLivenessServer is a server whose existing streams can be silenced while new ones work.
type fakeLivenessServer struct {
	mu       sync.Mutex
	streams  int
	deaf     int // number of the first streams that are no longer served
	lagging  int // number of streams that do not answer progress requests
	creates  int
	progress int

	delay       time.Duration // of answers to progress requests
	answeredFor time.Time     // when the last answered request arrived
}

func (s *fakeLivenessServer) serve(stream pb.Watch_WatchServer) error {
	s.mu.Lock()
	s.streams++
	me := s.streams
	s.mu.Unlock()
	var sending sync.Mutex
	for id := int64(1); ; {
		req, err := stream.Recv()
		if err != nil {
			return err // the client has closed the stream
		}
		resp := &pb.WatchResponse{Header: &pb.ResponseHeader{ClusterId: 1, RaftTerm: 1, Revision: 5}}
		s.mu.Lock()
		silent := me <= s.deaf
		switch {
		case req.GetCreateRequest() != nil:
			s.creates++
			resp.WatchId, resp.Created = id, true
			id++
		case req.GetCancelRequest() != nil:
			resp.WatchId, resp.Canceled = req.GetCancelRequest().GetWatchId(), true
		default:
			s.progress++
			resp.WatchId = -1
			silent = silent || me <= s.lagging
		}
		delay := s.delay
		s.mu.Unlock()
		if silent {
			continue
		}
		came := time.Now()
		answer := func() {
			sending.Lock()
			defer sending.Unlock()
			if resp.GetWatchId() == -1 {
				s.set(func() { s.answeredFor = came })
			}
			_ = stream.Send(resp) // Recv returns the error
		}
		if resp.GetWatchId() == -1 && delay > 0 {
			timer := time.AfterFunc(delay, answer)
			context.AfterFunc(stream.Context(), func() { timer.Stop() })
			continue
		}
		answer()
	}
}

// set changes the server.
func (s *fakeLivenessServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// counts returns how many streams, creations and progress requests there were.
func (s *fakeLivenessServer) counts() (streams, creates, progress int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams, s.creates, s.progress
}

// fourWatches runs f in a bubble with four live watches of the server.
func fourWatches(t *testing.T, f func(t *testing.T, s *fakeLivenessServer, subs []*watch.Subscription)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &fakeLivenessServer{}
		w := newWatcher(t, startFakeServerInMemory(t, s.serve))
		var subs []*watch.Subscription
		for _, dir := range []string{"a/", "b/", "c/", "d/"} {
			sub, _ := subscribe(t, w, watch.Prefix(dir))
			subs = append(subs, sub)
		}
		time.Sleep(time.Minute)
		f(t, s, subs)
	})
}

// reopenedAll waits until all watches were opened again, and returns how long that took.
func reopenedAll(subs []*watch.Subscription) time.Duration {
	began := time.Now()
	for _, sub := range subs {
		for sub.Status().Reopened == 0 || sub.Status().State != watch.StateLive {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return time.Since(began)
}

func TestWatcher_SharesStreamWithTwoProgressRequestsAMinute(t *testing.T) {
	t.Parallel()
	fourWatches(t, func(t *testing.T, s *fakeLivenessServer, subs []*watch.Subscription) {
		_, creates, before := s.counts()
		time.Sleep(time.Hour)
		streams, after, progress := s.counts()
		assert.Equal(t, 1, streams)
		assert.Equal(t, creates, after)
		assert.InDelta(t, 120, progress-before, 10)
		for _, sub := range subs {
			assert.LessOrEqual(t, time.Since(sub.Status().Heard), 37*time.Second)
		}
	})
}

func TestWatcher_LeavesSilentStreamFourSecondsAfterRequest(t *testing.T) {
	t.Parallel()
	fourWatches(t, func(t *testing.T, s *fakeLivenessServer, subs []*watch.Subscription) {
		s.set(func() { s.deaf = s.streams })
		began := time.Now()
		// it may continue with the next stream, or find that there is none yet
		go func() { _ = subs[2].Refresh(t.Context()) }()
		reopenedAll(subs)
		assert.InDelta(t, 4*time.Second, time.Since(began), float64(500*time.Millisecond), "the watches were not reopened together")
		require.NoError(t, subs[2].Refresh(t.Context()))
	})
}

func TestWatcher_LeavesSilentStreamWithin40SecondsWhenIdle(t *testing.T) {
	t.Parallel()
	fourWatches(t, func(t *testing.T, s *fakeLivenessServer, subs []*watch.Subscription) {
		s.set(func() { s.deaf = s.streams })
		assert.LessOrEqual(t, reopenedAll(subs), 41*time.Second)
	})
}

// etcd answers no progress request while a watch of the stream lags.
func TestWatcher_KeepsStreamThatConfirmsWatches(t *testing.T) {
	t.Parallel()
	fourWatches(t, func(t *testing.T, s *fakeLivenessServer, subs []*watch.Subscription) {
		s.set(func() { s.lagging = s.streams })
		time.AfterFunc(20*time.Second, func() { s.set(func() { s.lagging = 0 }) })
		_, creates, _ := s.counts()
		called := time.Now()
		require.NoError(t, subs[0].Refresh(t.Context()))
		assert.InDelta(t, 20*time.Second, time.Since(called), float64(1100*time.Millisecond))
		assert.False(t, subs[0].Status().Heard.After(time.Now()))
		assert.Zero(t, subs[0].Status().Reopened)
		_, after, _ := s.counts()
		assert.Equal(t, creates+1, after, "there must be one probe")
	})
}

func TestWatcher_LeavesStreamWithoutProgressAfter32Seconds(t *testing.T) {
	t.Parallel()
	fourWatches(t, func(t *testing.T, s *fakeLivenessServer, subs []*watch.Subscription) {
		s.set(func() { s.lagging = s.streams })
		began := time.Now()
		go func() { _ = subs[0].Refresh(t.Context()) }()
		reopenedAll(subs)
		assert.InDelta(t, 32*time.Second, time.Since(began), float64(500*time.Millisecond))
	})
}

// Answers do not say which request they are for. While some are on their way, further requests are
// sent.
func TestSubscription_HeardIsNotAfterAnsweredRequest(t *testing.T) {
	t.Parallel()
	fourWatches(t, func(t *testing.T, s *fakeLivenessServer, subs []*watch.Subscription) {
		s.set(func() { s.delay = 3 * time.Second })
		for range 10 {
			called := time.Now()
			require.NoError(t, subs[0].Refresh(t.Context()))
			heard := subs[0].Status().Heard
			assert.False(t, heard.Before(called))
			s.set(func() { assert.False(t, heard.After(s.answeredFor), "%v after", heard.Sub(s.answeredFor)) })
			time.Sleep(7 * time.Second)
		}
		assert.Zero(t, subs[0].Status().Reopened)
	})
}
