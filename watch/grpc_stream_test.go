package watch_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

// fakeWatchServer is a server whose streams are served by a function.
type fakeWatchServer struct {
	pb.UnimplementedWatchServer

	serve func(s pb.Watch_WatchServer) error
}

func (s *fakeWatchServer) Watch(stream pb.Watch_WatchServer) error { return s.serve(stream) }

// startFakeServer starts a server and returns its endpoint.
func startFakeServer(t *testing.T, serve func(s pb.Watch_WatchServer) error) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	serveFake(t, l, serve)
	return l.Addr().String()
}

// startFakeServerInMemory returns a client of such a server without a network, for synctest
// bubbles.
func startFakeServerInMemory(t *testing.T, serve func(s pb.Watch_WatchServer) error) *clientv3.Client {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	serveFake(t, l, serve)
	return etcdtest.NewClient(t, []string{"memory"}, func(c *clientv3.Config) {
		c.DialOptions = append(c.DialOptions, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return l.DialContext(ctx)
		}))
	})
}

// serveFake runs the server on l until the test ends.
func serveFake(t *testing.T, l net.Listener, serve func(s pb.Watch_WatchServer) error) {
	t.Helper()
	srv := grpc.NewServer()
	pb.RegisterWatchServer(srv, &fakeWatchServer{serve: serve})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-done
	})
}

// Close of client/v3's own watcher blocks forever if it is called between the refusal of a watch
// and its end.
func TestWatcher_CloseReturnsWhileWatchesAreRefused(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	ep := startFakeServer(t, func(s pb.Watch_WatchServer) error {
		for {
			if _, err := s.Recv(); err != nil {
				return nil //nolint:nilerr // the client has closed the stream
			}
			asked.Add(1)
			if err := s.Send(&pb.WatchResponse{
				Header: &pb.ResponseHeader{Revision: 1}, WatchId: -1, Created: true, Canceled: true,
				CancelReason: rpctypes.ErrGRPCInvalidAuthToken.Error(),
			}); err != nil {
				return err
			}
		}
	})
	cli := etcdtest.NewClient(t, []string{ep})
	for range size(150, 1500) {
		w := etcdtest.Must(watch.New(cli))
		before := asked.Load()
		for i := range 20 { // more than there are streams
			_, err := w.Subscribe(watch.Key(strconv.Itoa(i)), func(context.Context, watch.Batch) error { return nil })
			require.NoError(t, err)
		}
		require.Eventually(t, func() bool { return asked.Load() >= before+int64(1+rand.IntN(20)) }, within, 10*time.Microsecond)
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			_ = w.Close()
		}()
		select {
		case <-closed:
		case <-time.NewTimer(within).C:
			require.Fail(t, "Close does not return")
		}
	}
}

// One stream carries several watches. Only the refused ones get the refusal.
func TestWatcher_RefusalReachesItsWatch(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "u", Password: "p", Grants: []etcdtest.Grant{etcdtest.Read("w/")}})
	root := srv.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	w := newWatcher(t, srv.Client(t, etcdtest.As("u", "p")))
	var subs []*watch.Subscription
	var got []*recorder
	for i := range 40 {
		r := newRecorder()
		key := fmt.Sprintf("w/%02d", i)
		if i%3 == 0 {
			key = fmt.Sprintf("secret/%02d", i)
		}
		sub, err := w.Subscribe(watch.Key(key), r.handle)
		require.NoError(t, err)
		subs, got = append(subs, sub), append(got, r)
	}
	for i, sub := range subs {
		if i%3 == 0 {
			require.ErrorIs(t, ended(t, sub), watch.ErrPermission)
			continue
		}
		ready(t, sub)
		got[i].revision(t, mustPut(t, root, fmt.Sprintf("w/%02d", i), "v"))
	}
}

func TestWatcher_JoinsFragmentsAndIgnoresProgressBetween(t *testing.T) {
	t.Parallel()
	header := func(rev int64) *pb.ResponseHeader {
		return &pb.ResponseHeader{ClusterId: 1, RaftTerm: 1, Revision: rev}
	}
	event := func(key string) *mvccpb.Event {
		return &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: []byte("v"), ModRevision: 7, CreateRevision: 7, Version: 1}}
	}
	live := make(chan struct{})
	ep := startFakeServer(t, func(s pb.Watch_WatchServer) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		if err := s.Send(&pb.WatchResponse{Header: header(5), WatchId: 3, Created: true}); err != nil {
			return err
		}
		<-live
		for _, resp := range []*pb.WatchResponse{
			{Header: header(7), WatchId: 9, Events: []*mvccpb.Event{event("somebody-else's")}},
			{Header: header(7), WatchId: 3, Fragment: true, Events: []*mvccpb.Event{event("a"), event("b")}},
			{Header: header(7), WatchId: -1},
			{Header: header(7), WatchId: 3, Fragment: true, Events: []*mvccpb.Event{event("c")}},
			{Header: header(7), WatchId: 3, Events: []*mvccpb.Event{event("d")}},
		} {
			if err := s.Send(resp); err != nil {
				return err
			}
		}
		<-s.Context().Done()
		return nil
	})
	w := newWatcher(t, etcdtest.NewClient(t, []string{ep}))
	_, got := subscribe(t, w, watch.Prefix(""))
	close(live)
	got.revision(t, 7)
	require.Len(t, got.all(), 1)
	assert.Equal(t, []string{"a", "b", "c", "d"}, keysOf(got.all()[0]))
}

func TestWatcher_CancelsUnconfirmedWatch(t *testing.T) {
	t.Parallel()
	asked, confirm, cancelled := make(chan struct{}, 1), make(chan struct{}), make(chan int64, 64)
	ep := startFakeServer(t, func(s pb.Watch_WatchServer) error {
		for id := int64(1); ; id++ {
			req, err := s.Recv()
			if err != nil {
				return nil //nolint:nilerr // the client has closed the stream
			}
			if c := req.GetCancelRequest(); c != nil {
				cancelled <- c.GetWatchId()
				continue
			}
			if slices.Equal(req.GetCreateRequest().GetKey(), []byte("late")) {
				asked <- struct{}{}
				<-confirm
			}
			if req.GetCreateRequest() == nil { // a request for progress
				id--
				continue
			}
			if err := s.Send(&pb.WatchResponse{Header: &pb.ResponseHeader{Revision: 5}, WatchId: id, Created: true}); err != nil {
				return err
			}
		}
	})
	w := newWatcher(t, etcdtest.NewClient(t, []string{ep}))
	for i := range 15 {
		subscribe(t, w, watch.Key(strconv.Itoa(i)))
	}
	sub, err := w.Subscribe(watch.Key("late"), func(context.Context, watch.Batch) error { return nil })
	require.NoError(t, err)
	<-asked
	require.NoError(t, sub.Close())
	close(confirm)
	assert.EqualValues(t, 16, <-cancelled, "the 16th watch of its stream")
}

func TestWatcher_AllWatchesLeaveBlockedStream(t *testing.T) {
	t.Parallel()
	var stuck atomic.Bool
	ep := startFakeServer(t, func(s pb.Watch_WatchServer) error {
		for id := int64(1); ; id++ {
			req, err := s.Recv()
			if err != nil {
				return nil //nolint:nilerr // the client has closed the stream
			}
			resp := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: 5}, WatchId: -1}
			create := req.GetCreateRequest()
			if create != nil {
				resp.WatchId, resp.Created = id, true
			}
			if err := s.Send(resp); err != nil {
				return err
			}
			if string(create.GetKey()) == "14" && stuck.CompareAndSwap(false, true) {
				<-s.Context().Done()
				return nil
			}
		}
	})
	w := newWatcher(t, etcdtest.NewClient(t, []string{ep}))
	var last *watch.Subscription
	for i := range 15 {
		last, _ = subscribe(t, w, watch.Key(strconv.Itoa(i)))
	}
	large, err := w.Subscribe(watch.Key(strings.Repeat("x", 1<<20)), func(context.Context, watch.Batch) error { return nil })
	require.NoError(t, err) // fills the window of its stream
	ready(t, large)
	require.Eventually(t, func() bool { return last.Status().Reopened > 0 }, within, 10*time.Millisecond)
}

func TestWatcher_CloseReturnsWhileStreamsAreOpened(t *testing.T) {
	t.Parallel()
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	asked := make(chan struct{}, 64)
	for name, ep := range map[string]string{
		"nobody is there":       "127.0.0.1:1",
		"somebody says nothing": silent.Addr().String(),
		"watches are unconfirmed": startFakeServer(t, func(s pb.Watch_WatchServer) error {
			_, err := s.Recv()
			asked <- struct{}{}
			<-s.Context().Done() // nothing more is read
			return err
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := etcdtest.Must(watch.New(etcdtest.NewClient(t, []string{ep})))
			for i := range 40 {
				_, err := w.Subscribe(watch.Key(strings.Repeat(strconv.Itoa(i), 20<<10)), newRecorder().handle)
				require.NoError(t, err)
			}
			if name == "watches are unconfirmed" {
				<-asked
			}
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				_ = w.Close()
			}()
			select {
			case <-closed:
			case <-time.NewTimer(within).C:
				require.Fail(t, "Close does not return")
			}
			assert.Zero(t, w.Active())
			assert.Zero(t, w.Stats().Streams)
		})
	}
}

func TestSubscription_StatusHasErrorOfFailedStream(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "u", Password: "p", Grants: []etcdtest.Grant{etcdtest.Read("w/")}})
	root := srv.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	w := newWatcher(t, srv.Client(t, etcdtest.As("u", "p")))
	_, err := root.UserChangePassword(t.Context(), "u", "other")
	require.NoError(t, err)
	_, err = w.Subscribe(watch.Prefix("w/"), newRecorder().handle)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		all := w.ServerWatches()
		return len(all) == 1 && all[0].Err != nil
	}, within, time.Millisecond)
	assert.ErrorContains(t, w.ServerWatches()[0].Err, "authentication failed")
}
