package watchstream_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/watchstream"
)

// testPool is a pool whose goroutines have ended when the test ends.
type testPool struct {
	*watchstream.Pool

	wg *sync.WaitGroup
}

func newPool(t *testing.T, cli *clientv3.Client) testPool {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	wg := &sync.WaitGroup{}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return testPool{watchstream.NewPool(ctx, wg, cli, func(string) {}), wg}
}

// receive returns the next response, or the error with which the watch ends.
func receive(t *testing.T, w *watchstream.Watch) (watchstream.Response, error) {
	t.Helper()
	select {
	case resp, ok := <-w.Responses:
		err := resp.EndError(ok)
		return resp, err
	case <-time.After(20 * time.Second): //nolint:forbidigo // the test fails then
		require.Fail(t, "no response")
		return watchstream.Response{}, nil
	}
}

func keySpec(key string) watchstream.Spec { return watchstream.Spec{From: key, To: key + "\x00"} }

func TestPool_LiveWatchesShareStream(t *testing.T) {
	t.Parallel()
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	p := newPool(t, cli)
	first, second := p.AcquireLive("", 0), p.AcquireLive("", 0)
	assert.Same(t, first, second)
	assert.True(t, first.IsLive())
	assert.Equal(t, 1, p.Size())

	a, err := first.Open(t.Context(), p.wg, keySpec(dir+"a"), watchstream.Start{})
	require.NoError(t, err)
	defer a.Cancel()
	b, err := second.Open(t.Context(), p.wg, keySpec(dir+"b"), watchstream.Start{})
	require.NoError(t, err)
	defer b.Cancel()
	put, err := cli.Put(t.Context(), dir+"b", "v")
	require.NoError(t, err)
	resp, err := receive(t, b)
	require.NoError(t, err)
	require.Len(t, resp.Events, 1)
	assert.Equal(t, put.Header.Revision, resp.Events[0].Kv.ModRevision)

	a.RequestProgress()
	resp, err = receive(t, a)
	require.NoError(t, err, "a watch gets only its own events, and progress")
	assert.True(t, resp.IsProgress())
	assert.GreaterOrEqual(t, resp.Header.Revision, put.Header.Revision)
	assert.False(t, resp.CompleteAt.Before(a.RequestedAt))

	p.Release(first, false)
	p.Release(second, false)
	assert.Zero(t, p.Size())
}

func TestPool_RetiresBrokenStream(t *testing.T) {
	t.Parallel()
	p := newPool(t, etcdtest.Client(t))
	first, second := p.AcquireLive("", 0), p.AcquireLive("", 0)
	p.Release(first, true)
	<-second.Retired
	require.ErrorIs(t, second.RetireErr, watchstream.ErrMoved)
	next := p.AcquireLive("", 0)
	assert.NotSame(t, second, next)
	p.Release(second, false)
	p.Release(next, false)
	assert.Zero(t, p.Size())
}

func TestPool_KeepsReplayStreamsWhileReplaysRun(t *testing.T) {
	t.Parallel()
	p := newPool(t, etcdtest.Client(t))
	first, second := p.AcquireReplay(0, ""), p.AcquireReplay(0, "")
	assert.NotSame(t, first, second)
	p.Release(first, false)
	third := p.AcquireReplay(0, "")
	assert.Same(t, first, third)
	p.Release(third, false)
	p.Release(second, false)
	assert.Zero(t, p.Size())
}

func TestStream_OpenReturnsCompactionError(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cli := srv.Client(t)
	var rev int64
	for range 3 {
		put, err := cli.Put(t.Context(), "k", "v")
		require.NoError(t, err)
		rev = put.Header.Revision
	}
	_, err := cli.Compact(t.Context(), rev)
	require.NoError(t, err)
	p := newPool(t, cli)
	s := p.AcquireReplay(0, "")
	defer p.Release(s, false)
	w, err := s.Open(t.Context(), p.wg, keySpec("k"), watchstream.Start{Rev: rev - 1})
	if err == nil { // etcd may confirm the watch first
		defer w.Cancel()
		w.AllowReceive()
		_, err = receive(t, w)
	}
	var compaction *watchstream.CompactionError
	require.ErrorAs(t, err, &compaction)
	assert.Equal(t, rev, compaction.Oldest)
}

func TestStream_OpenReturnsRefusedError(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "ada", Password: "secret"})
	p := newPool(t, srv.Client(t, etcdtest.As("ada", "secret")))
	s := p.AcquireLive("", 0)
	defer p.Release(s, false)
	_, err := s.Open(t.Context(), p.wg, keySpec("k"), watchstream.Start{})
	var refused *watchstream.RefusedError
	require.ErrorAs(t, err, &refused)
	assert.ErrorContains(t, refused.Err, rpctypes.ErrPermissionDenied.Error())
}

func TestStream_OpenEndsWithContext(t *testing.T) {
	t.Parallel()
	p := newPool(t, etcdtest.Client(t))
	s := p.AcquireLive("", 0)
	defer p.Release(s, false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Open(ctx, p.wg, keySpec("k"), watchstream.Start{})
	assert.ErrorIs(t, err, context.Canceled)
}
