package lock_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
)

// slowKV delays responses, like a server in another region.
type slowKV struct {
	clientv3.KV

	delay time.Duration
}

func (k *slowKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	r, err := k.KV.Do(ctx, op)
	time.Sleep(k.delay)
	return r, err
}

// Longer names below the queue change all the time, also while a waiter confirms its blocker.
func TestMutex_FreeLockIsGrantedWhileLongerNamesChange(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	h := mustLock(t, l.Mutex("m"))
	cli := etcdtest.Client(t)
	cli.KV = &slowKV{cli.KV, 100 * time.Millisecond}
	proxy, waits := watchingApart(t, cli, dir)
	ctx := timely(t)
	w := waiting(func() (*lock.Held, error) { return waits.Mutex("m").Lock(ctx) })
	eventually(t, func() bool { return waits.Stats().Watched == 1 })
	writing, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for writing.Err() == nil {
				_, _ = p.cli.Put(writing, dir+"locks/m/1/x", "")
			}
		})
	}
	proxy.Cut() // the watch is opened again
	eventually(t, func() bool { s := waits.Stats(); return s.Reopened > 0 && s.Watched == 1 })
	mustRelease(t, h)
	free := time.Now()
	r := got(t, w)
	require.NoError(t, r.err)
	assert.Less(t, time.Since(free), 10*time.Second)
	stop()
	wg.Wait()
	mustRelease(t, r.v)
}

func TestMutex_WaiterBehindHolderThatIsGoneIsGranted(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, p := newLocker(t, dir)
	h := mustLock(t, a.Mutex("m"))
	proxy, b := watchingApart(t, etcdtest.Client(t), dir)
	proxy.Hold(true, true) // its watch is asked for, and confirmed when the blocker is long gone
	late := waiting(func() (*lock.Held, error) { return b.Mutex("m").Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/", 2)
	mustRelease(t, h)
	proxy.Heal()
	r := got(t, late)
	require.NoError(t, r.err)
	assert.Greater(t, r.v.Token(), h.Token())
	mustRelease(t, r.v)
}

// client/v3's mutex uses the same key each time its session locks. A waiter must not take the next
// key for the previous one.
func TestMutex_BlockerThatComesBackBehindDoesNotBlock(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	theirs := concurrency.NewMutex(theirSession(t, etcdtest.Client(t)), dir+"locks/m")
	require.NoError(t, theirs.Lock(t.Context()))
	proxy, l := watchingApart(t, etcdtest.Client(t), dir)
	proxy.Hold(true, true)
	cli := etcdtest.Client(t)
	late := waiting(func() (*lock.Held, error) { return l.Mutex("m").Lock(timely(t)) })
	queued(t, cli, dir+"locks/m/", 2)
	require.NoError(t, theirs.Unlock(t.Context()))
	again := waiting(func() (struct{}, error) { return struct{}{}, theirs.Lock(timely(t)) })
	queued(t, cli, dir+"locks/m/", 2)
	proxy.Heal()
	r := got(t, late)
	require.NoError(t, r.err)
	mustRelease(t, r.v)
	require.NoError(t, got(t, again).err)
	require.NoError(t, theirs.Unlock(t.Context()))
}

func TestMutex_WaiterWhoseWatchIsLostIsGranted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(2 * time.Millisecond)
		other, l := f.locker(t), f.locker(t)
		h := mustLock(t, other.Mutex("m"))
		late := waiting(func() (*lock.Held, error) { return l.Mutex("m").Lock(timely(t)) })
		time.Sleep(600 * time.Millisecond) // longer than it waits for its first watch to open
		assert.Equal(t, 1, l.Stats().Watched)
		f.cutWatches()
		time.Sleep(time.Second)
		assert.Zero(t, l.Stats().Watched)
		mustRelease(t, h)
		free := time.Now()
		r := <-late
		require.NoError(t, r.err)
		assert.Less(t, time.Since(free), 10*time.Second, "it polls instead")
		assert.Greater(t, r.v.Token(), h.Token())
		mustRelease(t, r.v)
	})
}

func TestMutex_WaiterNoticesThatItsKeyWasDeleted(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	other, p := newLocker(t, dir)
	h := mustLock(t, other.Mutex("m"))
	l, _ := newLocker(t, dir)
	l.SetCheckInterval(100 * time.Millisecond)
	late := waiting(func() (*lock.Held, error) { return l.Mutex("m").Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/", 2)
	_, err := p.cli.Delete(t.Context(), keysUnder(t, p.cli, dir+"locks/m/")[1])
	require.NoError(t, err)
	require.ErrorIs(t, got(t, late).err, lock.ErrLost, "nothing has happened to what it watches")
	mustRelease(t, h)
}

func TestSemaphore_WaiterBehindManyWatchesTheQueue(t *testing.T) {
	t.Parallel()
	const dir, n = "d/", 10
	alone := etcdtest.Start(t) // writes of others would cost one more check
	a, p := lockerOver(t, alone.Client(t), dir)
	var held []*lock.Permit
	for range n {
		held = append(held, mustAcquire(t, a.Semaphore("s", n), 1))
	}
	s := &spent{t: t, count: etcdtest.Counter(t)}
	l, _ := lockerOver(t, alone.Client(t, s.count.Option), dir)
	s.l = l
	s.reset()
	late := waiting(func() (*lock.Permit, error) { return l.Semaphore("s", n).Acquire(timely(t)) })
	queued(t, p.cli, dir+"locks/s/.sem/", n+1)
	eventually(t, func() bool { return l.Stats().Watched == 1 }, "not one watch for each of ten")
	ctx, stop := context.WithCancel(t.Context())
	behind := waiting(func() (*lock.Permit, error) { return a.Semaphore("s", n).Acquire(ctx) })
	queued(t, p.cli, dir+"locks/s/.sem/", n+2)
	stop()
	require.ErrorIs(t, got(t, behind).err, context.Canceled)
	queued(t, p.cli, dir+"locks/s/.sem/", n+1)
	s.costs(txns(1), "who is behind does not matter")
	for _, one := range held[:n/2] { // none of which is the last
		mustGive(t, one)
	}
	r := got(t, late)
	require.NoError(t, r.err)
	for _, one := range held[n/2:] {
		mustGive(t, one)
	}
	mustGive(t, r.v)
}

func TestMutex_ContendsWithConcurrency(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 50} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			rounds := 200 / n
			dir := etcdtest.Prefix(t)
			var inside atomic.Int32
			counter := 0
			critical := func() {
				assert.EqualValues(t, 1, inside.Add(1))
				counter++
				inside.Add(-1)
			}
			ctx, stop := context.WithTimeout(t.Context(), 4*within)
			defer stop()
			var wg sync.WaitGroup
			for i := range n {
				cli := etcdtest.Client(t)
				if i%2 == 0 {
					l, _ := lockerOver(t, cli, dir)
					wg.Go(func() {
						var last int64
						for range rounds {
							assert.NoError(t, l.Mutex("m").Do(ctx, func(_ context.Context, h *lock.Held) error {
								assert.Greater(t, h.Token(), last)
								last = h.Token()
								critical()
								return nil
							}))
						}
					})
					continue
				}
				m := concurrency.NewMutex(theirSession(t, cli), dir+"locks/m")
				wg.Go(func() {
					// It unlocks and locks again in the same session, with the same key.
					for range rounds {
						if !assert.NoError(t, m.Lock(ctx)) {
							return
						}
						critical()
						assert.NoError(t, m.Unlock(ctx))
					}
				})
			}
			wg.Wait()
			assert.Equal(t, n*rounds, counter)
			assert.Empty(t, keysUnder(t, etcdtest.Client(t), dir+"locks/"))
		})
	}
}

func TestElection_ContendsWithConcurrency(t *testing.T) {
	t.Parallel()
	const n, rounds = 10, 6
	dir := etcdtest.Prefix(t)
	var leaders atomic.Int32
	var top atomic.Int64
	lead := func(token int64) {
		assert.EqualValues(t, 1, leaders.Add(1))
		assert.Less(t, top.Swap(token), token)
		leaders.Add(-1)
	}
	var wg sync.WaitGroup
	for i := range n {
		cli := etcdtest.Client(t)
		if i%2 == 0 {
			l, _ := lockerOver(t, cli, dir)
			wg.Go(func() {
				for range rounds {
					leader, err := l.Election("e").Campaign(timely(t), "ours")
					if assert.NoError(t, err) {
						lead(leader.Token())
						assert.NoError(t, leader.Release(t.Context()))
					}
				}
			})
			continue
		}
		s := theirSession(t, cli)
		wg.Go(func() {
			for range rounds {
				e := concurrency.NewElection(s, dir+"elections/e")
				if assert.NoError(t, e.Campaign(timely(t), "theirs")) {
					lead(e.Rev())
					assert.NoError(t, e.Resign(t.Context()))
				}
			}
		})
	}
	wg.Wait()
}

func TestLocker_WaitersOfOneQueueShareOnePoll(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	held := mustAcquire(t, l.Semaphore("s", 1), 1)
	count := etcdtest.Counter(t)
	proxy, blind := watchingApart(t, count.Client(t, harden), dir)
	proxy.Refuse()
	ctx, stop := context.WithCancel(t.Context())
	const n = 50
	var granted atomic.Int32
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			one, err := blind.Semaphore("s", 1).Acquire(ctx)
			if err == nil {
				granted.Add(1)
				assert.NoError(t, one.Release(t.Context()))
			}
		})
	}
	queued(t, p.cli, dir+"locks/s/.sem/", n+1)
	polls := blind.Stats().Confirmed
	eventually(t, func() bool { return blind.Stats().Confirmed >= polls+2 })
	count.Reset()
	before := blind.Stats().Confirmed
	eventually(t, func() bool { return blind.Stats().Confirmed >= before+3 })
	assert.LessOrEqual(t, count.Count("KV/Txn"), 5, "three polls of all fifty, and perhaps one on its way")
	mustGive(t, held)
	eventually(t, func() bool { return granted.Load() > 0 }, "without any watch")
	stop()
	wg.Wait()
}

// lateKV applies writing transactions late and loses their responses.
type lateKV struct {
	clientv3.KV

	on    atomic.Bool
	delay time.Duration
}

func (k *lateKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	_, then, _ := op.Txn()
	for _, one := range then {
		if one.IsPut() && k.on.Load() {
			time.AfterFunc(k.delay, func() { _, _ = k.KV.Do(context.WithoutCancel(ctx), op) })
			return clientv3.OpResponse{}, status.Error(codes.Unavailable, "error reading from server: EOF")
		}
	}
	return k.KV.Do(ctx, op)
}

func TestLocker_CloseLeavesNoKeyThatComesLate(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	cli := etcdtest.Client(t)
	k := &lateKV{KV: cli.KV, delay: 4 * time.Second}
	cli.KV = k
	p := newParts(t, cli, dir)
	_, err := p.leases.Shared(t.Context())
	require.NoError(t, err)
	l := etcdtest.Must(lock.New(p))
	k.on.Store(true)
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	_, err = l.Mutex("m").Lock(ctx)
	require.Error(t, err)
	_ = l.Close()
	other, q := newLocker(t, dir)
	eventually(t, func() bool { return len(keysUnder(t, q.cli, dir+"locks/")) > 0 }, "the key comes")
	h := mustLock(t, other.Mutex("m"))
	mustRelease(t, h)
	queued(t, q.cli, dir+"locks/", 0)
}

func TestLocker_LossHookMayRelease(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	cli := etcdtest.Client(t)
	p := newParts(t, cli, dir)
	held := make(chan *lock.Held, 1)
	hook := make(chan error, 1)
	p.leases = etcdtest.Must(lease.New(cli, lease.WithNamespace(dir), scopetest.Option[lease.Option](scope.Hooks{LeaseLost: func(context.Context, error) {
		h := <-held
		hook <- h.Release(context.Background()) //nolint:forbidigo // a hook has no context
	}})))
	l := etcdtest.Must(lock.New(p, lock.WithTTL(10*time.Second)))
	defer l.Close()
	h := mustLock(t, l.Mutex("a"))
	held <- h
	_, err := cli.Revoke(t.Context(), leaseOf(t, p, dir+"locks/a/"))
	require.NoError(t, err)
	mustRelease(t, mustLock(t, l.Mutex("b")))
	require.ErrorIs(t, next(t, hook), lock.ErrLost)
	require.NoError(t, p.leases.Close())
}

func TestLocker_ClientCloseEndsWaits(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	other, q := newLocker(t, dir)
	foreign := mustLock(t, other.Mutex("foreign"))
	l, p := newLocker(t, dir)
	own := mustLock(t, l.Mutex("own"))
	waits := map[string]<-chan result[*lock.Held]{}
	for _, name := range []string{"foreign", "own"} {
		waits[name] = waiting(func() (*lock.Held, error) { return l.Mutex(name).Lock(t.Context()) })
	}
	queued(t, q.cli, dir+"locks/foreign/", 2)
	eventually(t, func() bool { return l.Stats().Waiting == 2 })
	require.NoError(t, p.cli.Close())
	for name, w := range waits {
		require.ErrorIs(t, got(t, w).err, lock.ErrClosed, "it waits for the %s holder", name)
	}
	_, err := l.Mutex("m").Lock(t.Context())
	require.ErrorIs(t, err, lock.ErrClosed)
	require.Error(t, own.Release(t.Context()))
	mustRelease(t, foreign)
}

func TestHeld_VerifyAgreesWithGuard(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	h := mustLock(t, l.Mutex("m"))
	key := keysUnder(t, p.cli, dir+"locks/m/")[0]
	_, err := p.cli.Put(t.Context(), key, "a note of an operator", clientv3.WithIgnoreLease())
	require.NoError(t, err)
	_, err = p.store.Put(t.Context(), "data", nil, kv.WithGuard(h))
	require.ErrorIs(t, err, lock.ErrLost)
	require.ErrorIs(t, h.Verify(t.Context()), lock.ErrLost)
	require.ErrorIs(t, h.Release(t.Context()), lock.ErrLost)
}

// A change of the holder's key while its watch was broken must be detected once the watch is open
// again.
func TestHeld_NoticesLossWhileItsWatchWasAway(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(cli *clientv3.Client, key string) error{
		"deleted": func(cli *clientv3.Client, key string) error {
			_, err := cli.Delete(t.Context(), key)
			return err
		},
		"created again": func(cli *clientv3.Client, key string) error {
			_, err := cli.Delete(t.Context(), key)
			if err == nil {
				_, err = cli.Put(t.Context(), key, "")
			}
			return err
		},
		"put again": func(cli *clientv3.Client, key string) error {
			_, err := cli.Put(t.Context(), key, "", clientv3.WithIgnoreLease())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := etcdtest.Prefix(t)
			cli := etcdtest.Client(t)
			proxy, l := watchingApart(t, cli, dir)
			h := mustLock(t, l.Mutex("m"))
			eventually(t, func() bool { return l.Stats().Watched == 1 })
			proxy.Refuse()
			proxy.Cut()
			eventually(t, func() bool { return l.Stats().Watched == 0 })
			require.NoError(t, spoil(cli, keysUnder(t, cli, dir+"locks/m/")[0]))
			require.NoError(t, h.Err())
			proxy.Accept()
			closed(t, h.Context().Done(), "the loss")
			require.ErrorIs(t, context.Cause(h.Context()), lock.ErrLost)
			require.ErrorIs(t, h.Release(t.Context()), lock.ErrLost)
		})
	}
}

func TestMutex_TokenOfWaiterIsHigherThanThatOfTurns(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, p := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	h := mustLock(t, a.Mutex("m"))
	late := waiting(func() (*lock.Held, error) { return b.Mutex("m").Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/", 2)
	turn := waiting(func() (*lock.Held, error) { return a.Mutex("m").Lock(timely(t)) })
	eventually(t, func() bool { return a.Stats().Waiting == 1 })
	mustRelease(t, h)
	second := got(t, turn)
	require.NoError(t, second.err)
	locked, ok := errors.AsType[*lock.LockedError](func() error { _, err := b.Mutex("m").TryLock(t.Context()); return err }())
	require.True(t, ok)
	assert.LessOrEqual(t, locked.Token, second.v.Token())
	mustRelease(t, second.v)
	third := got(t, late)
	require.NoError(t, third.err)
	assert.Greater(t, second.v.Token(), h.Token())
	assert.Greater(t, third.v.Token(), second.v.Token())
	_, err := p.store.Put(t.Context(), "data", nil, kv.WithGuard(third.v))
	require.NoError(t, err, "its guard is its own key's")
	mustRelease(t, third.v)
}
