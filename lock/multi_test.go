package lock_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

func TestMulti_LockDoesNotDeadlock(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	orders := [][]string{{"a", "b", "c"}, {"c", "b", "a"}, {"b", "c"}, {"c", "a"}}
	counters := map[string]int{"a": 0, "b": 0, "c": 0}
	cells := map[string]*int{"a": new(int), "b": new(int), "c": new(int)}
	var wg sync.WaitGroup
	for _, names := range orders {
		l, _ := newLocker(t, dir)
		var ms []*lock.Mutex
		for _, name := range names {
			ms = append(ms, l.Mutex(name))
			counters[name] += 10
		}
		wg.Go(func() {
			for range 10 {
				all, err := l.Multi(ms...).Lock(timely(t))
				if !assert.NoError(t, err) {
					return
				}
				for i, name := range names {
					*cells[name]++
					assert.Positive(t, all.Token(ms[i]))
				}
				assert.NoError(t, all.Release(t.Context()))
			}
		})
	}
	wg.Wait()
	for name, want := range counters {
		assert.Equal(t, want, *cells[name], name)
	}
	assert.Empty(t, keysUnder(t, etcdtest.Client(t), dir+"locks/"))
}

func TestMulti_LocksAllOrNone(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	other, _ := newLocker(t, dir)
	h := mustLock(t, other.Mutex("b"))
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	_, err := l.Multi(l.Mutex("b"), l.Mutex("a")).Lock(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	queued(t, p.cli, dir+"locks/a/", 0)
	queued(t, p.cli, dir+"locks/b/", 1)
	mustRelease(t, h)
}

func TestMultiHeld_LostWithAnyMutex(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	a, b := l.Mutex("a"), l.Mutex("b")
	all, err := l.Multi(a, b).Lock(timely(t))
	require.NoError(t, err)
	assert.NotEqual(t, all.Token(a), all.Token(b))
	assert.Zero(t, all.Token(l.Mutex("c")))
	require.NoError(t, all.Verify(t.Context()))
	_, err = p.store.Put(t.Context(), "x", nil, kv.WithGuard(all))
	require.NoError(t, err)
	_, err = p.cli.Delete(t.Context(), dir+"locks/b/", clientv3.WithPrefix())
	require.NoError(t, err)
	_, err = p.store.Put(t.Context(), "x", nil, kv.WithGuard(all))
	require.ErrorIs(t, err, lock.ErrLost)
	require.ErrorIs(t, all.Verify(t.Context()), lock.ErrLost)
	closed(t, all.Context().Done(), "the context ends")
	require.ErrorIs(t, all.Err(), lock.ErrLost)
	require.ErrorIs(t, all.Context().Err(), context.Canceled)
	require.ErrorIs(t, all.Release(t.Context()), lock.ErrLost)
	require.ErrorIs(t, all.Release(t.Context()), lock.ErrReleased)
	queued(t, p.cli, dir+"locks/", 0)
}

func TestMulti_RejectsInvalidMutexes(t *testing.T) {
	t.Parallel()
	l, _ := newLocker(t, etcdtest.Prefix(t))
	other, _ := newLocker(t, etcdtest.Prefix(t))
	for name, ms := range map[string][]*lock.Mutex{
		"none": nil, "nil": {nil}, "one twice": {l.Mutex("a"), l.Mutex("a")}, "another's": {other.Mutex("a")}, "a bad name": {l.Mutex("/")},
	} {
		_, err := l.Multi(ms...).Lock(t.Context())
		require.ErrorIs(t, err, lock.ErrInvalid, name)
	}
}

func TestMulti_LockReturnsErrLostWhileWaiting(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	other, _ := newLocker(t, dir)
	h := mustLock(t, other.Mutex("b"))
	all := waiting(func() (*lock.MultiHeld, error) { return l.Multi(l.Mutex("a"), l.Mutex("b")).Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/b/", 2)
	eventually(t, func() bool { return l.Stats().Watched == 2 })
	_, err := p.cli.Delete(t.Context(), dir+"locks/a/", clientv3.WithPrefix())
	require.NoError(t, err)
	err = got(t, all).err
	require.ErrorIs(t, err, lock.ErrLost)
	require.NotErrorIs(t, err, context.Canceled, "no caller has given up")
	require.ErrorContains(t, err, `"a"`)
	queued(t, p.cli, dir+"locks/b/", 1)
	mustRelease(t, h)
	assert.Zero(t, l.Stats().Held)
}

// Another client may be granted one of them while the others are still being released.
func TestMultiHeld_ContextEndsBeforeRelease(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	cli := etcdtest.Client(t)
	k := &parkingKV{KV: cli.KV, applied: make(chan struct{}), goOn: make(chan struct{})}
	cli.KV = k
	l, _ := lockerOver(t, cli, dir)
	all, err := l.Multi(l.Mutex("a"), l.Mutex("b")).Lock(timely(t))
	require.NoError(t, err)
	k.armed.Store(true)
	released := waiting(func() (struct{}, error) { return struct{}{}, all.Release(timely(t)) })
	closed(t, k.applied, "one of them is free")
	select {
	case <-all.Context().Done():
	default:
		assert.Fail(t, "the context has not ended")
	}
	require.ErrorIs(t, context.Cause(all.Context()), lock.ErrReleased)
	close(k.goOn)
	require.NoError(t, got(t, released).err)
	require.ErrorIs(t, all.Release(t.Context()), lock.ErrReleased)
}

func TestMulti_InvalidNameSendsNothing(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	l, _ := lockerOver(t, count.Client(t), etcdtest.Prefix(t))
	count.Reset()
	_, err := l.Multi(l.Mutex("a"), l.Mutex("z//z"), l.Mutex("b")).Lock(t.Context())
	require.ErrorIs(t, err, lock.ErrInvalid)
	assert.Zero(t, count.Total(), count.Counts())
}
