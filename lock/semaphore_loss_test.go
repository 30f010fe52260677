package lock_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

func TestSemaphore_TryAcquireSucceedsWhenResponseIsLost(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	k, cli := newLossy(t)
	l, p := lockerOver(t, cli, dir)
	k.mood.Store(loseNextResponse)
	r, err := l.Semaphore("s", 2).TryAcquire(timely(t))
	require.NoError(t, err)
	assert.Len(t, keysUnder(t, p.cli, dir+"locks/"), 1)
	require.NoError(t, r.Verify(t.Context()))
	mustGive(t, r)

	k.mood.Store(applyLate)
	ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	_, err = l.Semaphore("s", 1).TryAcquire(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	k.mood.Store(healthy)
	k.arrived(t)
	queued(t, p.cli, dir+"locks/", 0)
}

func TestPermit_LostPermitIsFree(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	other, _ := newLocker(t, dir)
	permit := mustAcquire(t, l.Semaphore("s", 1), 1)
	next := waiting(func() (*lock.Permit, error) { return other.Semaphore("s", 1).Acquire(timely(t)) })
	queued(t, p.cli, dir+"locks/s/.sem/", 2)
	eventually(t, func() bool { return l.Stats().Watched == 1 })
	_, err := p.cli.Revoke(t.Context(), leaseOf(t, p, dir+"locks/s/.sem/"))
	require.NoError(t, err)
	closed(t, permit.Context().Done(), "the context ends")
	require.ErrorIs(t, permit.Err(), lock.ErrLost)
	_, err = p.store.Put(t.Context(), "x", nil, kv.WithGuard(permit))
	require.ErrorIs(t, err, lock.ErrLost)
	require.ErrorIs(t, permit.Release(t.Context()), lock.ErrLost)
	r := got(t, next)
	require.NoError(t, r.err)
	mustGive(t, r.v)
	require.ErrorIs(t, r.v.Release(t.Context()), lock.ErrReleased)
}

func TestSemaphore_CanceledAcquireAdmitsNext(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, p := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	held := mustAcquire(t, a.Semaphore("s", 3), 2)
	ctx, stop := context.WithCancel(t.Context())
	much := waiting(func() (*lock.Permit, error) { return b.Semaphore("s", 3).AcquireN(ctx, 3) })
	queued(t, p.cli, dir+"locks/s/.sem/", 2)
	little := waiting(func() (*lock.Permit, error) { return b.Semaphore("s", 3).Acquire(timely(t)) })
	queued(t, p.cli, dir+"locks/s/.sem/", 3)
	stop()
	require.ErrorIs(t, got(t, much).err, context.Canceled)
	r := got(t, little)
	require.NoError(t, r.err)
	mustGive(t, r.v)
	mustGive(t, held)
	queued(t, p.cli, dir+"locks/", 0)
}

func TestSemaphore_AcquireReturnsBlockedError(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	_, err := p.cli.Put(t.Context(), dir+"locks/s/.sem/stray", "data")
	require.NoError(t, err)
	mustGive(t, mustAcquire(t, l.Semaphore("s", 2), 1)) // there is room beside it
	for name, try := range map[string]func(context.Context) (*lock.Permit, error){
		"Acquire": l.Semaphore("s", 1).Acquire, "TryAcquire": l.Semaphore("s", 1).TryAcquire,
		"AcquireN": func(ctx context.Context) (*lock.Permit, error) { return l.Semaphore("s", 2).AcquireN(ctx, 2) },
	} {
		_, err = try(timely(t))
		blocked, ok := errors.AsType[*lock.BlockedError](err)
		require.True(t, ok, "%s: %v", name, err)
		assert.Equal(t, "locks/s/.sem/stray", blocked.Key)
	}
	queued(t, p.cli, dir+"locks/", 1)
}
