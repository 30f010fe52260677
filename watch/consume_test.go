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

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

func TestConsume_ContinuesAtCheckpoint(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli)
	cp := kv.NewCheckpoint(etcdtest.Must(kv.New(cli)), dir+"checkpoint")
	stop := errors.New("enough")
	var seen []string
	consume := func(ctx context.Context, n int) error {
		return w.Consume(ctx, watch.Prefix(dir+"in/"), cp, func(_ context.Context, b watch.Batch) error {
			for _, e := range b.Events {
				if n == 0 {
					return stop
				}
				n--
				seen = append(seen, string(e.Value))
			}
			return nil
		})
	}
	// The first run saves its start before anything has changed.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- consume(ctx, 0) }()
	require.Eventually(t, func() bool { rev, err := cp.Load(t.Context()); return err == nil && rev > 0 }, within, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)

	for i := range 6 {
		mustPut(t, cli, dir+"in/k", strconv.Itoa(i))
	}
	require.ErrorIs(t, consume(t.Context(), 2), stop)
	require.ErrorIs(t, consume(t.Context(), 3), stop)
	assert.Equal(t, []string{"0", "1", "2", "3", "4"}, seen)
}

func TestConsume_ReturnsErrorOfCheckpoint(t *testing.T) {
	t.Parallel()
	w := newWatcher(t, newFakeEtcd(1).client(t))
	boom := errors.New("boom")
	err := w.Consume(t.Context(), watch.Key("k"), &fakeCheckpoint{err: boom}, func(context.Context, watch.Batch) error { return nil })
	require.ErrorIs(t, err, boom)
	assert.ErrorContains(t, err, `watch: consume "k": load the checkpoint: boom`)
}

func TestConsume_AdvancesCheckpointOfQuietPrefix(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		opts  []watch.Option
		told  bool
		every time.Duration
	}{
		"by itself": {nil, false, 30 * time.Second},
		"as asked":  {[]watch.Option{watch.WithProgress(5 * time.Second)}, true, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
				cp, got := &fakeCheckpoint{}, newRecorder()
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- watcher.Consume(ctx, watch.Prefix("dir/"), cp, got.handle, c.opts...) }()
				synctest.Wait()
				time.Sleep(time.Second)
				begun, _ := cp.Load(ctx)
				assert.Equal(t, w.revision(), begun, "the start was not saved at once")
				moved := w.commit(change{key: "elsewhere", value: "1"})
				time.Sleep(2*c.every + 2*time.Second)
				saved, _ := cp.Load(ctx)
				assert.Equal(t, moved, saved)
				assert.Equal(t, c.told, len(got.all()) > 0)
				time.Sleep(10 * c.every)
				assert.Len(t, cp.saves, 2, "nothing has changed since")
				cancel()
				require.ErrorIs(t, <-done, context.Canceled)
			})
		})
	}
}

func TestConsume_FirstResyncIsWholeState(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		w.commit(change{key: "dir/b", value: "1"})
		cp, got := &fakeCheckpoint{rev: w.revision()}, newRecorder()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- watcher.Consume(ctx, watch.Prefix("dir/"), cp, got.handle, watch.WithSnapshot()) }()
		time.Sleep(time.Second) // it is live, and has hidden a Progress batch
		require.Empty(t, got.all())
		w.set(func() { w.mute = true })
		w.breakOff(nil)
		w.commit(change{key: "dir/b", del: true})
		w.commit(change{key: "dir/c", value: "1"})
		w.compactTo(w.revision())
		w.stopFaults()
		got.until(t, "the resync", func(b []watch.Batch) bool { return len(b) == 1 })
		b := got.all()[0]
		assert.Equal(t, watch.Resync, b.Kind)
		assert.Equal(t, []string{"dir/a", "dir/c", "dir/b"}, keysOf(b), "unchanged, changed and deleted keys")
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}

func TestConsume_SavesAfterHandlerAndEndsWithSaveError(t *testing.T) {
	t.Parallel()
	runInBubble(t, func(t *testing.T, w *fakeEtcd, watcher *watch.Watcher) {
		cp := &fakeCheckpoint{rev: w.revision()}
		first := w.commit(change{key: "dir/a", value: "1"})
		second := w.commit(change{key: "dir/a", value: "2"})
		boom := errors.New("boom")
		err := watcher.Consume(t.Context(), watch.Prefix("dir/"), cp, func(_ context.Context, b watch.Batch) error {
			if b.Revision == second {
				cp.mu.Lock()
				defer cp.mu.Unlock()
				assert.Equal(t, first, cp.rev)
				cp.err = boom
			}
			return nil
		})
		require.ErrorIs(t, err, boom)
		assert.ErrorContains(t, err, `watch: consume "dir/*": save the checkpoint: boom`)
	})
}

func TestConsume_SavesProcessedBatchAfterContextEnds(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli)
	cp := kv.NewCheckpoint(etcdtest.Must(kv.New(cli)), dir+"checkpoint")
	require.NoError(t, cp.Save(t.Context(), mustPut(t, cli, dir+"in/k", "before")))
	for i := range 3 {
		mustPut(t, cli, dir+"in/k", strconv.Itoa(i))
	}
	var seen []string
	for len(seen) < 3 { // a process that stops after each batch
		ctx, stop := context.WithCancel(t.Context())
		err := w.Consume(ctx, watch.Prefix(dir+"in/"), cp, func(_ context.Context, b watch.Batch) error {
			for _, e := range b.Events {
				seen = append(seen, string(e.Value))
				stop()
			}
			return nil
		})
		require.ErrorIs(t, err, context.Canceled)
	}
	assert.Equal(t, []string{"0", "1", "2"}, seen, "a batch was processed twice")
}

func TestConsume_BoundsSaveAfterContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWatcher(t, newFakeEtcd(1).client(t))
		ctx, stop := context.WithCancel(t.Context())
		began := time.Now()
		err := w.Consume(ctx, watch.Key("k"), &fakeStuckCheckpoint{stop}, func(context.Context, watch.Batch) error { return nil }, watch.WithSnapshot())
		require.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, 5*time.Second, time.Since(began).Round(time.Second))
	})
}

// fakeStuckCheckpoint is a checkpoint whose Save blocks, in a process that is stopping.
type fakeStuckCheckpoint struct{ stop context.CancelFunc }

func (*fakeStuckCheckpoint) Load(context.Context) (int64, error) { return 0, nil }

func (s *fakeStuckCheckpoint) Save(ctx context.Context, _ int64) error {
	s.stop()
	<-ctx.Done()
	return ctx.Err()
}
