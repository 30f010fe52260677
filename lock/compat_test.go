package lock_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

func TestMutex_ExcludesClientV3Mutex(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	s := theirSession(t, etcdtest.Client(t))
	theirs, ours := concurrency.NewMutex(s, dir+"locks/m"), l.Mutex("m")

	h := mustLock(t, ours)
	require.ErrorIs(t, theirs.TryLock(t.Context()), concurrency.ErrLocked)
	late := waiting(func() (struct{}, error) { return struct{}{}, theirs.Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/", 2)
	mustRelease(t, h)
	require.NoError(t, got(t, late).err)

	_, err := ours.TryLock(t.Context())
	locked, ok := errors.AsType[*lock.LockedError](err)
	require.True(t, ok, err)
	assert.Equal(t, "lease "+strings.TrimPrefix(theirs.Key(), dir+"locks/m/"), locked.Owner)
	next := waiting(func() (*lock.Held, error) { return ours.Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/", 2)
	require.NoError(t, theirs.Unlock(t.Context()))
	r := got(t, next)
	require.NoError(t, r.err)
	mustRelease(t, r.v)
}

func TestMutex_ContendsWithClientV3Mutex(t *testing.T) {
	t.Parallel()
	const rounds = 15
	name := strings.TrimSuffix(etcdtest.Prefix(t), "/")
	counter := 0
	var wg sync.WaitGroup
	for range 2 {
		l, _ := newLocker(t, "", lock.WithDir("")) // names verbatim, as etcdctl lock has them
		for range 2 {
			wg.Go(func() {
				for range rounds {
					assert.NoError(t, l.Mutex(name).Do(timely(t), func(context.Context, *lock.Held) error {
						counter++
						return nil
					}))
				}
			})
		}
		cli := etcdtest.Client(t)
		m := concurrency.NewMutex(theirSession(t, cli), name)
		wg.Go(func() {
			for range rounds {
				if !assert.NoError(t, m.Lock(timely(t))) {
					return
				}
				counter++
				assert.NoError(t, m.Unlock(t.Context()))
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 6*rounds, counter)
}

func TestElection_SharesNameWithClientV3Election(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	e := l.Election("e")
	theirs := concurrency.NewElection(theirSession(t, etcdtest.Client(t)), dir+"elections/e")

	leader := mustLead(t, e, "ours")
	resp, err := theirs.Leader(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "ours", string(resp.Kvs[0].Value))
	late := waiting(func() (struct{}, error) { return struct{}{}, theirs.Campaign(timely(t), "theirs") })
	queued(t, p.cli, dir+"elections/e/", 2)
	require.NoError(t, leader.Release(t.Context()))
	require.NoError(t, got(t, late).err)

	now, err := e.Leader(t.Context())
	require.NoError(t, err)
	assert.Equal(t, lock.Leader{Value: "theirs", Token: theirs.Rev()}, now)
	next := waiting(func() (*lock.Leadership, error) { return e.Campaign(timely(t), "ours again") })
	queued(t, p.cli, dir+"elections/e/", 2)
	require.NoError(t, theirs.Proclaim(t.Context(), "still theirs"))
	require.NoError(t, theirs.Resign(t.Context()))
	r := got(t, next)
	require.NoError(t, r.err)
	assert.Greater(t, r.v.Token(), now.Token)
	seen := theirs.Observe(timely(t))
	assert.Equal(t, "ours again", string((<-seen).Kvs[0].Value))
	require.NoError(t, r.v.Proclaim(t.Context(), "news"))
	assert.Equal(t, "news", string((<-seen).Kvs[0].Value))
	require.NoError(t, r.v.Release(t.Context()))
}

func TestMutex_YieldsToOtherProcessAfter16Turns(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	m := l.Mutex("m")
	theirs := concurrency.NewMutex(theirSession(t, etcdtest.Client(t)), dir+"locks/m")
	h := mustLock(t, m)
	waits := waiting(func() (struct{}, error) { return struct{}{}, theirs.Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/", 2)

	const locals = 40
	turns, after := 0, 0
	var theirTurn bool
	var wg sync.WaitGroup
	for range locals {
		wg.Go(func() {
			assert.NoError(t, m.Do(timely(t), func(context.Context, *lock.Held) error {
				if theirTurn {
					after++
				} else {
					turns++
				}
				return nil
			}))
		})
	}
	eventually(t, func() bool { return l.Stats().Waiting == locals })
	mustRelease(t, h)
	require.NoError(t, got(t, waits).err)
	theirTurn = true
	assert.Equal(t, 16, turns)
	require.NoError(t, theirs.Unlock(t.Context()))
	wg.Wait()
	assert.Equal(t, locals-16, after)
}
