package lock_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

func TestPermit_GuardRefusesLostReadLock(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, p *parts, key string) error{
		"deleted": func(t *testing.T, p *parts, key string) error {
			t.Helper()
			_, err := p.cli.Delete(t.Context(), key)
			return err
		},
		"revoked": func(t *testing.T, p *parts, key string) error {
			t.Helper()
			_, err := p.cli.Revoke(t.Context(), leaseOf(t, p, key))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := etcdtest.Prefix(t)
			l, p := newLocker(t, dir)
			r := mustRead(t, l.RWMutex("m"))
			_, err := p.store.Put(t.Context(), "x", nil, kv.WithGuard(r))
			require.NoError(t, err)
			eventually(t, func() bool { return l.Stats().Watched == 1 })
			require.NoError(t, harm(t, p, keysUnder(t, p.cli, dir+"locks/m/.rw/")[0]))
			closed(t, r.Context().Done(), "the context ends")
			require.ErrorIs(t, context.Cause(r.Context()), lock.ErrLost)
			_, err = p.store.Put(t.Context(), "x", nil, kv.WithGuard(r))
			require.ErrorIs(t, err, lock.ErrLost)
			require.ErrorIs(t, r.Release(t.Context()), lock.ErrLost)
			require.ErrorIs(t, r.Release(t.Context()), lock.ErrReleased)
			mustRelease(t, mustLock(t, l.RWMutex("m").Mutex))
		})
	}
}

func TestRWMutex_CanceledRLockLeavesNoKey(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, p := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	w := mustLock(t, a.RWMutex("m").Mutex)
	ctx, stop := context.WithCancel(t.Context())
	reader := waiting(func() (*lock.Permit, error) { return b.RWMutex("m").RLock(ctx) })
	queued(t, p.cli, dir+"locks/m/.rw/", 2)
	stop()
	require.ErrorIs(t, got(t, reader).err, context.Canceled)
	queued(t, p.cli, dir+"locks/m/.rw/", 1)
	mustRelease(t, w)
}

func TestRWMutex_RLockReturnsBlockedError(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	r := mustRead(t, l.RWMutex("m"))
	_, err := p.cli.Put(t.Context(), dir+"locks/m/.rw/stray", "data")
	require.NoError(t, err)
	for name, try := range map[string]func(context.Context) (*lock.Permit, error){"RLock": l.RWMutex("m").RLock, "TryRLock": l.RWMutex("m").TryRLock} {
		_, err = try(timely(t))
		blocked, ok := errors.AsType[*lock.BlockedError](err)
		require.True(t, ok, "%s: %v", name, err)
		assert.Equal(t, "locks/m/.rw/stray", blocked.Key)
	}
	mustGive(t, r)
	queued(t, p.cli, dir+"locks/m/.rw/", 1)
}

// A waiting writer that has lost its lease must not be admitted beside later ones.
func TestRWMutex_LostWriterIsNeverGranted(t *testing.T) {
	t.Parallel()
	rounds := 20
	if long() {
		rounds = 1000
	}
	dir := etcdtest.Prefix(t)
	for range rounds {
		inside := &room{}
		unlucky, p := newLocker(t, dir, lock.WithTTL(15*time.Second))
		reader, _ := newLocker(t, dir)
		r := mustRead(t, reader.RWMutex("m"))
		inside.read(t)
		lost := waiting(func() (*lock.Held, error) { return unlucky.RWMutex("m").Lock(timely(t)) })
		queued(t, p.cli, dir+"locks/m/.rw/", 2)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				assert.NoError(t, reader.RWMutex("m").RDo(timely(t), func(context.Context, *lock.Permit) error {
					inside.read(t)
					inside.leave()
					return nil
				}))
			})
		}
		wg.Go(func() {
			assert.NoError(t, reader.RWMutex("m").Do(timely(t), func(context.Context, *lock.Held) error {
				inside.write(t)
				inside.leave()
				return nil
			}))
		})
		_, err := p.cli.Revoke(t.Context(), leaseOf(t, p, keysUnder(t, p.cli, dir+"locks/m/.rw/")[1]))
		require.NoError(t, err)
		require.ErrorIs(t, got(t, lost).err, lock.ErrLost)
		inside.leave()
		mustGive(t, r)
		wg.Wait()
		require.NoError(t, unlucky.Close())
		require.NoError(t, reader.Close())
	}
	assert.Empty(t, keysUnder(t, etcdtest.Client(t), dir+"locks/"))
}
