package lock_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

func TestMutex_HasOneHolder(t *testing.T) {
	t.Parallel()
	const processes, each, rounds = 4, 4, 10
	dir := etcdtest.Prefix(t)
	var inside, total int
	var holders atomic.Int32
	var top int64
	var wg sync.WaitGroup
	for range processes {
		l, _ := newLocker(t, dir)
		for range each {
			wg.Go(func() {
				m := l.Mutex("m")
				for range rounds {
					h, err := m.Lock(timely(t))
					if !assert.NoError(t, err) {
						return
					}
					assert.EqualValues(t, 1, holders.Add(1))
					inside++ // the race detector looks on
					assert.Equal(t, 1, inside)
					assert.Greater(t, h.Token(), top, "tokens rise")
					top = h.Token()
					total++
					inside--
					holders.Add(-1)
					assert.NoError(t, h.Release(t.Context()))
				}
			})
		}
	}
	wg.Wait()
	assert.Equal(t, processes*each*rounds, total)
	assert.Empty(t, keysUnder(t, etcdtest.Client(t), dir+"locks/"))
}

func TestMutex_UncontendedCost(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	l, _ := lockerOver(t, count.Client(t), etcdtest.Prefix(t))
	l.DisableHoldWatch()
	m := l.Mutex("m")
	for range 3 {
		count.Reset()
		mustRelease(t, mustLock(t, m))
		assert.Equal(t, map[string]int{"KV/Txn": 2}, count.Counts())
	}
}

func TestMutex_TryLockCostWhenHeld(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	s := etcdtest.Start(t)
	other, _ := lockerOver(t, s.Client(t), dir, lock.WithOwner("the other"))
	count := etcdtest.Counter(t)
	cli := s.Client(t, count.Option)
	l, _ := lockerOver(t, cli, dir)
	h := mustLock(t, other.Mutex("m"))
	before, err := cli.Get(t.Context(), "x")
	require.NoError(t, err)

	count.Reset()
	_, err = l.Mutex("m").TryLock(t.Context())
	assert.Equal(t, map[string]int{"KV/Txn": 1}, count.Counts())
	require.ErrorIs(t, err, lock.ErrLocked)
	locked, ok := errors.AsType[*lock.LockedError](err)
	require.True(t, ok)
	assert.Equal(t, lock.LockedError{Name: "m", Owner: "the other", Token: h.Token()}, *locked)
	after, err := cli.Get(t.Context(), "x")
	require.NoError(t, err)
	assert.Equal(t, before.Header.Revision, after.Header.Revision)

	mustRelease(t, h)
	got, err := l.Mutex("m").TryLock(t.Context())
	require.NoError(t, err)
	assert.Greater(t, got.Token(), h.Token())
	mustRelease(t, got)
}

func TestMutex_TryLockSendsNothingWhenHeldLocally(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	l, _ := lockerOver(t, count.Client(t), etcdtest.Prefix(t), lock.WithOwner("me"))
	l.DisableHoldWatch()
	h := mustLock(t, l.Mutex("m"))
	count.Reset()
	_, err := l.Mutex("m").TryLock(t.Context())
	require.ErrorIs(t, err, lock.ErrLocked)
	assert.EqualError(t, err, fmt.Sprintf(`lock: try lock "m": held by this process: me (token %d)`, h.Token()))
	assert.Zero(t, count.Total(), count.Counts())
	mustRelease(t, h)
}

func TestMutex_TryLockSendsNothingWhileWaitingLocally(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	count := etcdtest.Counter(t)
	other, _ := newLocker(t, dir, lock.WithOwner("the other"))
	l, p := lockerOver(t, count.Client(t), dir)
	h := mustLock(t, other.Mutex("m"))
	late := waiting(func() (*lock.Held, error) { return l.Mutex("m").Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/", 2)
	eventually(t, func() bool { return l.Stats().Watched == 1 })
	count.Reset()
	_, err := l.Mutex("m").TryLock(t.Context())
	locked, ok := errors.AsType[*lock.LockedError](err)
	require.True(t, ok, err)
	assert.Equal(t, lock.LockedError{Name: "m", Owner: "the other", Token: h.Token()}, *locked)
	assert.Zero(t, count.Count("KV/Txn"))
	mustRelease(t, h)
	mustRelease(t, got(t, late).v)
}

func TestMutex_NestedNamesAreIndependent(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, _ := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	deep := mustLock(t, a.Mutex("a/b"))
	nested := mustLock(t, a.Mutex("a/b/c/d"))

	short, err := b.Mutex("a").TryLock(t.Context())
	require.NoError(t, err)
	_, err = a.Mutex("a").TryLock(t.Context())
	require.ErrorIs(t, err, lock.ErrLocked)
	mustRelease(t, short)
	for i := range 6 { // more than the first few
		mustLock(t, a.Mutex(fmt.Sprintf("a/%d", i)))
	}
	short, err = b.Mutex("a").TryLock(t.Context())
	require.NoError(t, err)
	mustRelease(t, short)
	short = mustLock(t, b.Mutex("a"))
	mustRelease(t, short)
	mustRelease(t, nested)
	mustRelease(t, deep)
}

func TestMutex_TryLockSkipsManyNestedNames(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, p := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	for i := range 110 {
		_, err := p.store.Put(t.Context(), fmt.Sprintf("locks/m/%d/data", i), nil)
		require.NoError(t, err)
	}
	h, err := a.Mutex("m").TryLock(t.Context())
	require.NoError(t, err)
	_, err = b.Mutex("m").TryLock(t.Context())
	require.ErrorIs(t, err, lock.ErrLocked)
	queued(t, p.cli, dir+"locks/m/", 111)
	mustRelease(t, h)
	mustRelease(t, mustLock(t, b.Mutex("m")))
	queued(t, p.cli, dir+"locks/m/", 110)
}

func TestMutex_WaitersAreServedInOrder(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	cli := etcdtest.Client(t)
	l, _ := newLocker(t, dir)
	h := mustLock(t, l.Mutex("m"))
	const n = 6
	order := make(chan int, n)
	var wg sync.WaitGroup
	for i := range n {
		one, _ := newLocker(t, dir)
		wg.Go(func() {
			h, err := one.Mutex("m").Lock(timely(t))
			if assert.NoError(t, err) {
				order <- i
				assert.NoError(t, h.Release(t.Context()))
			}
		})
		queued(t, cli, dir+"locks/m/", i+2)
	}
	mustRelease(t, h)
	wg.Wait()
	for i := range n {
		assert.Equal(t, i, <-order)
	}
}

func TestMutex_GoroutinesShareOneKey(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	count := etcdtest.Counter(t)
	l, _ := lockerOver(t, count.Client(t), dir)
	m := l.Mutex("m")
	h := mustLock(t, m)
	const n = 20
	counter := 0
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			assert.NoError(t, m.Do(timely(t), func(_ context.Context, got *lock.Held) error {
				counter++
				assert.Greater(t, got.Token(), h.Token())
				return nil
			}))
		})
	}
	eventually(t, func() bool { return l.Stats().Waiting == n })
	count.Reset()
	mustRelease(t, h)
	wg.Wait()
	assert.Equal(t, n, counter)
	assert.EqualValues(t, n, l.Stats().Turns)
	assert.LessOrEqual(t, count.Total(), n+2, "%v: one request a turn, the last release, and the watch's read", count.Counts())
	assert.Empty(t, keysUnder(t, etcdtest.Client(t), dir+"locks/"))
}

func TestLocker_InvalidNameSendsNothing(t *testing.T) {
	t.Parallel()
	rows := map[string]string{
		"empty": "", "a NUL": "a\x00b", "a control character": "a\nb", "too long": strings.Repeat("x", 513), "a leading slash": "/a",
		"a trailing slash": "a/", "a double slash": "a//b", "not UTF-8": "a\xff", "a dir of the library's own": "a/.rw/b",
	}
	for name, invalid := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			count := etcdtest.Counter(t)
			l, _ := lockerOver(t, count.Client(t), etcdtest.Prefix(t))
			count.Reset()
			_, err := l.Mutex(invalid).Lock(t.Context())
			require.ErrorIs(t, err, lock.ErrInvalid)
			_, err = l.Mutex(invalid).TryLock(t.Context())
			require.ErrorIs(t, err, lock.ErrInvalid)
			require.ErrorIs(t, l.Mutex(invalid).Do(t.Context(), func(context.Context, *lock.Held) error { return nil }), lock.ErrInvalid)
			assert.Zero(t, count.Total())
		})
	}
}

func TestMutex_CanceledLockLeavesNoKey(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	cli := etcdtest.Client(t)
	a, _ := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	h := mustLock(t, a.Mutex("m"))
	ctx, stop := context.WithCancel(t.Context())
	late := waiting(func() (*lock.Held, error) { return b.Mutex("m").Lock(ctx) })
	queued(t, cli, dir+"locks/m/", 2)
	stop()
	require.ErrorIs(t, got(t, late).err, context.Canceled)
	queued(t, cli, dir+"locks/m/", 1)
	mustRelease(t, h)
	assert.Empty(t, keysUnder(t, cli, dir+"locks/"))
}

func TestMutex_CanceledLockHandsWaiterOn(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	cli := etcdtest.Client(t)
	a, _ := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	h := mustLock(t, a.Mutex("m"))
	ctx, stop := context.WithCancel(t.Context())
	first := waiting(func() (*lock.Held, error) { return b.Mutex("m").Lock(ctx) })
	queued(t, cli, dir+"locks/m/", 2)
	before := keysUnder(t, cli, dir+"locks/m/")
	second := waiting(func() (*lock.Held, error) { return b.Mutex("m").Lock(timely(t)) })
	eventually(t, func() bool { return b.Stats().Waiting == 2 })
	stop()
	require.ErrorIs(t, got(t, first).err, context.Canceled)
	assert.Equal(t, before, keysUnder(t, cli, dir+"locks/m/"))
	mustRelease(t, h)
	r := got(t, second)
	require.NoError(t, r.err)
	assert.Equal(t, before[1:], keysUnder(t, cli, dir+"locks/m/"))
	mustRelease(t, r.v)
}

func TestHeld_SecondReleaseReturnsErrReleased(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, _ := newLocker(t, dir)
	h := mustLock(t, l.Mutex("m"))
	mustRelease(t, h)
	require.ErrorIs(t, h.Err(), lock.ErrReleased)
	require.ErrorIs(t, context.Cause(h.Context()), lock.ErrReleased)
	next := mustLock(t, l.Mutex("m"))
	err := h.Release(t.Context())
	require.ErrorIs(t, err, lock.ErrReleased)
	assert.EqualError(t, err, `lock: release "m": lock released`)
	require.NoError(t, next.Verify(t.Context()))
	mustRelease(t, next)
}

func TestHeld_ReleaseWorksWithEndedContext(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	ctx, stop := context.WithCancel(t.Context())
	h, err := l.Mutex("m").Lock(ctx)
	require.NoError(t, err)
	stop()
	require.NoError(t, h.Err(), "the hold does not end with the context of Lock")
	require.NoError(t, h.Release(ctx))
	assert.Empty(t, keysUnder(t, p.cli, dir+"locks/"))
}

func TestMutex_LockReturnsBlockedError(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	resp, err := p.cli.Put(t.Context(), dir+"locks/m/stray", "data")
	require.NoError(t, err)
	for name, try := range map[string]func(context.Context) (*lock.Held, error){"Lock": l.Mutex("m").Lock, "TryLock": l.Mutex("m").TryLock} {
		_, err = try(timely(t))
		blocked, ok := errors.AsType[*lock.BlockedError](err)
		require.True(t, ok, "%s: %v", name, err)
		assert.Equal(t, lock.BlockedError{Name: "m", Key: "locks/m/stray", Revision: resp.Header.Revision}, *blocked)
		require.NotErrorIs(t, err, lock.ErrLocked)
	}
	queued(t, p.cli, dir+"locks/m/", 1)
}

func TestMutex_LockReturnsBlockedErrorWhileWaiting(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, p := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	c, _ := newLocker(t, dir)
	h := mustLock(t, a.Mutex("m"))
	_, err := p.cli.Put(t.Context(), dir+"locks/m/stray", "data")
	require.NoError(t, err)
	_, err = b.Mutex("m").Lock(timely(t))
	_, ok := errors.AsType[*lock.BlockedError](err)
	require.True(t, ok, "it is next behind the key, which never goes: %v", err)
	lease := leaseOf(t, p, dir+"locks/m/")
	_, err = p.cli.Put(t.Context(), dir+"locks/m/between", "", clientv3.WithLease(lease))
	require.NoError(t, err)
	late := waiting(func() (*lock.Held, error) { return c.Mutex("m").Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/", 4)
	mustRelease(t, h)
	_, err = p.cli.Delete(t.Context(), dir+"locks/m/between")
	require.NoError(t, err)
	_, ok = errors.AsType[*lock.BlockedError](got(t, late).err)
	require.True(t, ok)
	queued(t, p.cli, dir+"locks/m/", 1)
}

func TestMutex_DoRunsUnderTheLock(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	m := l.Mutex("m")
	boom := errors.New("boom")
	err := m.Do(t.Context(), func(ctx context.Context, h *lock.Held) error {
		require.NoError(t, ctx.Err())
		require.NoError(t, h.Verify(ctx))
		require.ErrorIs(t, m.TryDo(ctx, func(context.Context, *lock.Held) error { panic("held") }), lock.ErrLocked)
		return boom
	})
	assert.Equal(t, boom, err)
	assert.Panics(t, func() {
		_ = m.Do(t.Context(), func(context.Context, *lock.Held) error { panic("oh") })
	})
	assert.Empty(t, keysUnder(t, p.cli, dir+"locks/"), "released in spite of the panic")
	require.NoError(t, m.TryDo(t.Context(), func(context.Context, *lock.Held) error { return nil }))
	require.ErrorIs(t, m.Do(t.Context(), nil), lock.ErrInvalid)
}

func TestMutex_LongHoldIsWatched(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	h := mustLock(t, l.Mutex("m"))
	eventually(t, func() bool { return l.Stats().Watched == 1 })
	_, err := p.store.Delete(t.Context(), "locks/m/"+keysUnder(t, p.cli, dir+"locks/m/")[0][len(dir+"locks/m/"):])
	require.NoError(t, err)
	closed(t, h.Context().Done(), "the context ends when the key is deleted")
	require.ErrorIs(t, context.Cause(h.Context()), lock.ErrLost)
	require.ErrorIs(t, h.Err(), lock.ErrLost)
	require.ErrorIs(t, h.Verify(t.Context()), lock.ErrLost)
	err = h.Release(t.Context())
	require.ErrorIs(t, err, lock.ErrLost)
	assert.EqualError(t, err, `lock: release "m": lock lost: its key was deleted`)
	require.ErrorIs(t, h.Release(t.Context()), lock.ErrReleased)
	next := mustLock(t, l.Mutex("m"))
	mustRelease(t, next)
}

func TestLocker_CloseRemovesKeys(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, p := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	h := mustLock(t, a.Mutex("m"))
	mine := mustLock(t, b.Mutex("n"))
	late := waiting(func() (*lock.Held, error) { return b.Mutex("m").Lock(t.Context()) })
	queued(t, p.cli, dir+"locks/m/", 2)
	start := time.Now()
	require.NoError(t, b.Close())
	assert.Less(t, time.Since(start), 5*time.Second)
	require.ErrorIs(t, got(t, late).err, lock.ErrClosed)
	require.ErrorIs(t, mine.Err(), lock.ErrLost)
	require.ErrorIs(t, mine.Err(), lock.ErrClosed)
	assert.Empty(t, keysUnder(t, p.cli, dir+"locks/n/"))
	assert.Len(t, keysUnder(t, p.cli, dir+"locks/m/"), 1)
	_, err := b.Mutex("x").Lock(t.Context())
	require.ErrorIs(t, err, lock.ErrClosed)
	require.EqualError(t, err, `lock: lock "x": locker closed`)
	require.ErrorIs(t, mine.Release(t.Context()), lock.ErrLost)
	require.NoError(t, b.Close())
	mustRelease(t, h)
}
