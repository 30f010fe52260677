package lock_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

func mustRead(tb testing.TB, m *lock.RWMutex) *lock.Permit {
	tb.Helper()
	p, err := m.RLock(timely(tb))
	require.NoError(tb, err)
	return p
}

func mustGive(tb testing.TB, p *lock.Permit) {
	tb.Helper()
	require.NoError(tb, p.Release(timely(tb)))
}

func TestRWMutex_AdmitsReadersOrOneWriter(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, _ := newLocker(t, dir)
	b, p := newLocker(t, dir)
	rw := dir + "locks/m/.rw/"
	readers := []*lock.Permit{mustRead(t, a.RWMutex("m")), mustRead(t, a.RWMutex("m")), mustRead(t, b.RWMutex("m"))}
	writer := waiting(func() (*lock.Held, error) { return b.RWMutex("m").Lock(timely(t)) })
	queued(t, p.cli, rw, 4)
	behind := waiting(func() (*lock.Permit, error) { return a.RWMutex("m").RLock(timely(t)) })
	queued(t, p.cli, rw, 5)
	for _, r := range readers {
		select {
		case <-writer:
			require.Fail(t, "a writer beside a reader")
		case <-behind:
			require.Fail(t, "a reader that overtook a writer")
		default:
		}
		mustGive(t, r)
	}
	w := got(t, writer)
	require.NoError(t, w.err)
	select {
	case <-behind:
		require.Fail(t, "a reader beside a writer")
	default:
	}
	mustRelease(t, w.v)
	r := got(t, behind)
	require.NoError(t, r.err)
	mustGive(t, r.v)
	assert.Empty(t, keysUnder(t, p.cli, dir+"locks/"))
}

func TestRWMutex_WritersDoNotStarve(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	over := make(chan struct{})
	var reads atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		l, _ := newLocker(t, dir)
		for range 3 {
			wg.Go(func() { // there is always one who reads
				held, err := l.RWMutex("m").RLock(timely(t))
				for assert.NoError(t, err) {
					reads.Add(1)
					select {
					case <-over:
						assert.NoError(t, held.Release(t.Context()))
						return
					default:
					}
					next := waiting(func() (*lock.Permit, error) { return l.RWMutex("m").RLock(timely(t)) })
					assert.NoError(t, held.Release(t.Context()))
					r := <-next
					held, err = r.v, r.err
				}
			})
		}
	}
	l, _ := newLocker(t, dir)
	eventually(t, func() bool { return reads.Load() > 10 })
	for range 10 {
		mustRelease(t, mustLock(t, l.RWMutex("m").Mutex))
	}
	close(over)
	wg.Wait()
}

func TestRWMutex_ReadersDoNotStarve(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	writers, p := newLocker(t, dir)
	readers, _ := newLocker(t, dir)
	ctx, stop := context.WithCancel(timely(t))
	var wg sync.WaitGroup
	first := mustLock(t, writers.RWMutex("m").Mutex)
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := writers.RWMutex("m").Do(ctx, func(context.Context, *lock.Held) error { return nil })
				assert.True(t, err == nil || ctx.Err() != nil, err)
			}
		})
	}
	reader := waiting(func() (*lock.Permit, error) { return readers.RWMutex("m").RLock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/.rw/", 2)
	mustRelease(t, first)
	r := got(t, reader)
	require.NoError(t, r.err)
	mustGive(t, r.v)
	stop()
	wg.Wait()
}

func TestRWMutex_UncontendedRLockCost(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	count := etcdtest.Counter(t)
	l, _ := lockerOver(t, count.Client(t), dir)
	l.DisableHoldWatch()
	other, _ := newLocker(t, dir)
	for range 10 { // it makes no difference
		mustRead(t, other.RWMutex("m"))
	}
	count.Reset()
	mustGive(t, mustRead(t, l.RWMutex("m")))
	assert.Equal(t, map[string]int{"KV/Txn": 2}, count.Counts())
}

func TestRWMutex_RLockBehindManyReaders(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	var wg sync.WaitGroup
	for range 70 {
		wg.Go(func() { mustRead(t, l.RWMutex("m")) })
	}
	wg.Wait()
	other, _ := newLocker(t, dir)
	r := mustRead(t, other.RWMutex("m"))
	queued(t, p.cli, dir+"locks/m/.rw/", 71)
	mustGive(t, r)
}

func TestRWMutex_TryRLockNamesWriter(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	count := etcdtest.Counter(t)
	l, p := lockerOver(t, count.Client(t), dir, lock.WithOwner("the reader"))
	l.DisableHoldWatch()
	other, _ := newLocker(t, dir, lock.WithOwner("the writer"))
	m, theirs := l.RWMutex("m"), other.RWMutex("m")

	try := func(want int) (*lock.Permit, error) {
		count.Reset()
		r, err := m.TryRLock(t.Context())
		assert.Equal(t, map[string]int{"KV/Txn": want}, count.Counts())
		return r, err
	}
	one, err := try(1)
	require.NoError(t, err)
	two, err := try(2)
	require.NoError(t, err, "beside another reader")
	_, err = theirs.TryLock(t.Context())
	locked, ok := errors.AsType[*lock.LockedError](err)
	require.True(t, ok, err)
	assert.Equal(t, lock.LockedError{Name: "m", Owner: "the reader"}, *locked, "a reader has no token")

	writer := waiting(func() (*lock.Held, error) { return theirs.Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/.rw/", 3)
	_, err = try(1)
	require.ErrorIs(t, err, lock.ErrLocked, "a writer waits")
	mustGive(t, one)
	mustGive(t, two)
	w := got(t, writer)
	require.NoError(t, w.err)
	_, err = try(1)
	locked, ok = errors.AsType[*lock.LockedError](err)
	require.True(t, ok, err)
	assert.Equal(t, "the writer", locked.Owner)
	queued(t, p.cli, dir+"locks/m/.rw/", 1)
	mustRelease(t, w.v)
}

func TestRWMutex_IsIndependentOfMutex(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	h, w := mustLock(t, l.Mutex("m")), mustLock(t, l.RWMutex("m").Mutex)
	mustRelease(t, h)
	mustRelease(t, w)
	r := mustRead(t, l.RWMutex("m"))
	mustRelease(t, mustLock(t, l.Mutex("m")))
	mustGive(t, r)
	both, err := l.Multi(l.RWMutex("m").Mutex, l.Mutex("m")).Lock(timely(t))
	require.NoError(t, err)
	_, err = l.RWMutex("m").TryRLock(t.Context())
	require.ErrorIs(t, err, lock.ErrLocked)
	require.NoError(t, both.Release(t.Context()))
	assert.Empty(t, keysUnder(t, p.cli, dir+"locks/"))
}

func TestRWMutex_RDoRunsUnderTheReadLock(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	m := l.RWMutex("m")
	boom := errors.New("boom")
	err := m.RDo(t.Context(), func(ctx context.Context, r *lock.Permit) error {
		require.NoError(t, r.Verify(ctx))
		_, err := m.TryLock(ctx)
		require.ErrorIs(t, err, lock.ErrLocked)
		return boom
	})
	assert.Equal(t, boom, err)
	assert.Panics(t, func() { _ = m.RDo(t.Context(), func(context.Context, *lock.Permit) error { panic("oh") }) })
	assert.Empty(t, keysUnder(t, p.cli, dir+"locks/"), "released in spite of the panic")
	err = m.RDo(t.Context(), func(context.Context, *lock.Permit) error {
		_, err := p.cli.Delete(t.Context(), dir+"locks/m/", clientv3.WithPrefix())
		require.NoError(t, err)
		return nil
	})
	require.ErrorIs(t, err, lock.ErrLost)
	require.ErrorIs(t, m.RDo(t.Context(), nil), lock.ErrInvalid)
}

// room counts the readers inside. It is -1 while a writer is inside.
type room struct{ n atomic.Int64 }

func (r *room) read(t *testing.T) {
	t.Helper()
	if r.n.Add(1) < 1 {
		assert.Fail(t, "a reader beside a writer")
	}
}

func (r *room) write(t *testing.T) {
	t.Helper()
	if !r.n.CompareAndSwap(0, -1) {
		assert.Fail(t, "a writer beside others", "%d", r.n.Load())
	}
}

func (r *room) leave() {
	if !r.n.CompareAndSwap(-1, 0) {
		r.n.Add(-1)
	}
}
