package retrywatch_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/retrywatch"
	"github.com/etcdkit/etcdkit/watch"
)

var errHandler = errors.New("the handler failed")

// newConfig returns a configuration that watches the state below a prefix, and the client and the
// absolute prefix.
func newConfig(t *testing.T) (c retrywatch.Config, cli *clientv3.Client, dir string) {
	t.Helper()
	cli, dir = etcdtest.Client(t), etcdtest.Prefix(t)
	w := etcdtest.Must(watch.New(cli, watch.WithNamespace(dir)))
	t.Cleanup(func() { assert.NoError(t, w.Close()) })
	return retrywatch.Config{
		Watcher: w, Selector: watch.Prefix(""), Options: []watch.Option{watch.WithSnapshot()},
		MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond, TickInterval: time.Millisecond,
		OnBatch: func(context.Context, watch.Batch) error { return nil },
	}, cli, dir
}

// run runs a watch until the test ends.
func run(t *testing.T, c retrywatch.Config) *retrywatch.Watch {
	t.Helper()
	w := retrywatch.New(c)
	ctx, cancel := context.WithCancel(t.Context())
	go w.Run(ctx)
	t.Cleanup(func() {
		cancel()
		<-w.Ended()
	})
	return w
}

// wait returns the next value of c, or the zero value if c is closed.
func wait[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second): //nolint:forbidigo // the test fails then
		require.Fail(t, "nothing happened")
	}
	return v
}

func TestWatch_OpensAnotherWatchWhenOneEnds(t *testing.T) {
	t.Parallel()
	c, cli, dir := newConfig(t)
	var starts atomic.Int64
	c.OnStart = func() { starts.Add(1) }
	c.OnBatch = func(_ context.Context, b watch.Batch) error {
		if b.Kind == watch.Live {
			return errHandler
		}
		return nil
	}
	endings, lives := make(chan error, 1), make(chan *watch.Subscription, 2)
	c.OnEnd = func(err error, live bool) {
		assert.True(t, live)
		endings <- err
	}
	c.OnLive = func(sub *watch.Subscription) { lives <- sub }
	w := run(t, c)
	wait(t, w.Ready())
	first := wait(t, lives)
	current, next := w.Current()
	assert.Same(t, first, current)
	require.NoError(t, w.LastErr())

	_, err := cli.Put(t.Context(), dir+"k", "v")
	require.NoError(t, err)
	require.ErrorIs(t, wait(t, endings), errHandler)
	wait(t, next)
	second := wait(t, lives)
	assert.NotSame(t, first, second)
	assert.Same(t, second, w.Open())
	assert.Equal(t, int64(2), starts.Load())
	assert.Equal(t, uint64(1), w.Restarts())
	require.ErrorIs(t, w.LastErr(), errHandler)
	assert.True(t, w.IsLive())
	assert.NoError(t, w.StatusErr())
}

func TestWatch_EndsIfFirstWatchFails(t *testing.T) {
	t.Parallel()
	c, _, _ := newConfig(t)
	c.OnBatch = func(context.Context, watch.Batch) error { return errHandler }
	c.OnEnd = func(error, bool) { assert.Fail(t, "OnEnd was called") }
	w := run(t, c)
	wait(t, w.Ended())
	require.ErrorIs(t, w.LastErr(), errHandler)
	assert.False(t, w.WasLive())
	assert.False(t, w.IsLive())
	assert.Nil(t, w.Open())
	assert.Zero(t, w.Restarts())
}

func TestWatch_RetryFirstRetriesFirstWatch(t *testing.T) {
	t.Parallel()
	c, _, _ := newConfig(t)
	c.RetryFirst = true
	var calls atomic.Int64
	c.OnBatch = func(context.Context, watch.Batch) error {
		if calls.Add(1) < 3 {
			return errHandler
		}
		return nil
	}
	c.OnEnd = func(error, bool) { assert.Fail(t, "OnEnd was called") }
	w := run(t, c)
	wait(t, w.Ready())
	assert.Zero(t, w.Restarts())
}

func TestWatch_EndsWithWatcher(t *testing.T) {
	t.Parallel()
	c, _, _ := newConfig(t)
	w := run(t, c)
	wait(t, w.Ready())
	require.NoError(t, c.Watcher.Close())
	wait(t, w.Ended())
	assert.ErrorIs(t, w.LastErr(), watch.ErrClosed)
}

func TestWatch_TicksDuringAndBetweenWatches(t *testing.T) {
	t.Parallel()
	c, cli, dir := newConfig(t)
	c.MinBackoff, c.MaxBackoff = time.Hour, time.Hour
	c.OnBatch = func(_ context.Context, b watch.Batch) error {
		if b.Kind == watch.Live {
			return errHandler
		}
		return nil
	}
	during, between := make(chan struct{}, 1), make(chan struct{}, 1)
	c.OnTick = func(sub *watch.Subscription) {
		ticked := between
		if sub != nil {
			ticked = during
		}
		select {
		case ticked <- struct{}{}:
		default:
		}
	}
	w := run(t, c)
	wait(t, w.Ready())
	wait(t, during)
	_, err := cli.Put(t.Context(), dir+"k", "v")
	require.NoError(t, err)
	wait(t, between)
}
