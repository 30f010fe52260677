package keywatch_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keywatch"
)

// fakeWatcher confirms each watch, and ends it after a while.
type fakeWatcher struct {
	clientv3.Watcher // nil: nothing else is used

	lifetimes chan time.Duration // of the next watch
	ended     chan time.Time     // when the last one ended
}

func (f *fakeWatcher) Watch(ctx context.Context, _ string, _ ...clientv3.OpOption) clientv3.WatchChan {
	out := make(chan clientv3.WatchResponse, 1)
	out <- clientv3.WatchResponse{Header: &pb.ResponseHeader{Revision: 1}, Created: true}
	go func() {
		defer close(out)
		select {
		case d := <-f.lifetimes:
			time.Sleep(d)
			f.ended <- time.Now()
		case <-ctx.Done():
		}
	}()
	return out
}

func TestWatcher_ResetsBackoffOverUserWatcher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		cli := clientv3.NewCtxClient(ctx)
		f := &fakeWatcher{lifetimes: make(chan time.Duration), ended: make(chan time.Time, 1)}
		cli.Watcher = f
		w := keywatch.New(cli, false)
		defer w.Close()
		defer start(w, keywatch.Target{Key: "a"}, &fakeHandler{})()
		longestPause := func(lifetime time.Duration) (longest time.Duration) {
			f.lifetimes <- lifetime
			for range 20 {
				ended := <-f.ended
				f.lifetimes <- lifetime // the next watch takes it
				longest = max(longest, time.Since(ended))
			}
			<-f.ended
			return longest
		}
		assert.Greater(t, longestPause(0), time.Second, "a short watch reset the backoff")
		assert.Greater(t, longestPause(50*time.Millisecond), time.Second)
		longestPause(2 * time.Minute)
		assert.LessOrEqual(t, longestPause(2*time.Minute), 50*time.Millisecond)
	})
}
