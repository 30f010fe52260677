package lock_test

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

// long reports whether the tests run at full length instead of their everyday length.
func long() bool { return os.Getenv("ETCDKIT_LONG") != "" }

func TestMutex_ContendedLockCostsFewRequests(t *testing.T) {
	t.Parallel()
	const clients, rounds = 4, 25
	dir := etcdtest.Prefix(t)
	count := etcdtest.Counter(t)
	var lockers []*lock.Locker
	for range clients {
		l, _ := lockerOver(t, count.Client(t, harden), dir)
		lockers = append(lockers, l)
	}
	run := func(rounds int) {
		var wg sync.WaitGroup
		for _, l := range lockers {
			wg.Go(func() {
				for range rounds {
					assert.NoError(t, l.Mutex("m").Do(timely(t), func(context.Context, *lock.Held) error { return nil }))
				}
			})
		}
		wg.Wait()
	}
	run(3)
	count.Reset()
	run(rounds)
	unary := count.Count("KV/Txn") + count.Count("KV/Range") + count.Count("KV/Put") + count.Count("KV/DeleteRange")
	assert.LessOrEqual(t, float64(unary), 3.8*clients*rounds, "enqueue, look, release, and often one to make sure of the blocker: %v", count.Counts())
}

func TestMutex_ThousandGoroutines(t *testing.T) {
	t.Parallel()
	l, p := newLocker(t, etcdtest.Prefix(t))
	const n = 1000
	ctx, stop := context.WithTimeout(t.Context(), 10*within) // for all of them
	defer stop()
	counter := 0
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			assert.NoError(t, l.Mutex("m").Do(ctx, func(context.Context, *lock.Held) error {
				counter++
				return nil
			}))
		})
	}
	wg.Wait()
	assert.Equal(t, n, counter)
	assert.Empty(t, keysUnder(t, p.cli, p.dir+"locks/"))
}

func TestLocker_OpenCloseStorm(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	p := newParts(t, etcdtest.Client(t), dir)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for i := range 50 {
				l := etcdtest.Must(lock.New(p))
				ctx, stop := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond/4)
				go func() { _, _ = l.Mutex("m").Lock(ctx) }()
				go func() { _, _ = l.Election("e").Campaign(ctx, "x") }()
				if h, err := l.Mutex("m").Lock(ctx); err == nil && i%2 == 0 {
					_ = h.Release(ctx)
				}
				stop()
				assert.NoError(t, l.Close())
			}
		})
	}
	wg.Wait()
	queued(t, p.cli, dir, 0)
}

func TestLocker_CloseReturnsWhileEtcdIsDown(t *testing.T) {
	t.Parallel()
	for name, o := range map[string][]lock.Option{"on the shared session": nil, "on sessions of its own": {lock.WithTTL(time.Minute)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
			l, _ := lockerOver(t, etcdtest.NewClient(t, proxy.Endpoints(), harden), etcdtest.Prefix(t), o...)
			var held []*lock.Permit
			for range 300 { // more than one lease has room for
				held = append(held, mustAcquire(t, l.Semaphore("s", 300), 1))
			}
			proxy.Blackhole(true, true)
			began := time.Now()
			require.Error(t, l.Close())
			assert.Less(t, time.Since(began), 8*time.Second)
			for _, p := range held {
				require.ErrorIs(t, p.Err(), lock.ErrClosed)
			}
			proxy.Heal()
		})
	}
}

// trial runs a holder behind a link that dies and a waiter behind a good one. It returns when the
// holder learned of the loss and when the waiter was granted.
type trial func(t *testing.T, dir string, proxy *etcdtest.Proxy) (knew, granted time.Time)

// ourTrial also asserts that the former holder cannot write.
func ourTrial(t *testing.T, dir string, proxy *etcdtest.Proxy) (knew, granted time.Time) {
	t.Helper()
	l, _ := lockerOver(t, etcdtest.NewClient(t, proxy.Endpoints(), harden), dir, lock.WithTTL(2*time.Second))
	other, p := newLocker(t, dir)
	defer proxy.Heal()
	h := mustLock(t, l.Mutex("m"))
	heir := waiting(func() (time.Time, error) {
		_, err := other.Mutex("m").Lock(timely(t))
		return time.Now(), err
	})
	queued(t, p.cli, dir+"locks/m/", 2)
	knows := make(chan time.Time, 1)
	context.AfterFunc(h.Context(), func() { knows <- time.Now() })
	proxy.Blackhole(true, true)
	r := got(t, heir)
	require.NoError(t, r.err)
	_, err := p.store.Put(t.Context(), "resource", nil, kv.WithGuard(h))
	require.ErrorIs(t, err, lock.ErrLost)
	select {
	case knew = <-knows:
	default:
		knew = time.Now()
	}
	return knew, r.v
}

func theirTrial(t *testing.T, dir string, proxy *etcdtest.Proxy) (knew, granted time.Time) {
	t.Helper()
	session := func(endpoints []string) *concurrency.Session {
		s, err := concurrency.NewSession(etcdtest.NewClient(t, endpoints), concurrency.WithTTL(2))
		require.NoError(t, err)
		return s
	}
	defer proxy.Heal()
	holder := session(proxy.Endpoints())
	require.NoError(t, concurrency.NewMutex(holder, dir+"m").Lock(timely(t)))
	knows := make(chan time.Time, 1)
	go func() {
		<-holder.Done()
		knows <- time.Now()
	}()
	proxy.Blackhole(true, true)
	if err := concurrency.NewMutex(session(etcdtest.Endpoints()), dir+"m").Lock(timely(t)); err != nil {
		return knew, granted // has lost its session as well: shows nothing
	}
	granted = time.Now()
	return next(t, knows), granted
}

// overlaps returns how many of n trials had two holders at once, and the longest overlap.
func overlaps(t *testing.T, n, abreast int, run trial) (count int, worst time.Duration) {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	slots := make(chan struct{}, abreast)
	for range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			knew, granted := run(t, etcdtest.Prefix(t), etcdtest.NewProxy(t, etcdtest.Endpoints()[0]))
			mu.Lock()
			defer mu.Unlock()
			if over := knew.Sub(granted); over > 0 {
				count++
				worst = max(worst, over)
			}
		})
	}
	wg.Wait()
	return count, worst
}

func TestMutex_DeadLinkYieldsNoTwoHolders(t *testing.T) {
	t.Parallel()
	n := 8
	if long() {
		n = 200
	}
	count, worst := overlaps(t, n, 8, ourTrial)
	assert.Zero(t, count, "of %d; %v at the most", n, worst)
	if long() {
		count, worst = overlaps(t, n, 8, theirTrial)
		t.Logf("client/v3/concurrency: %d of %d overlap, %v at the most", count, n, worst)
	}
}

func TestLocker_OpenCloseStormOfSharedLocks(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	p := newParts(t, etcdtest.Client(t), dir)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for i := range 50 {
				l := etcdtest.Must(lock.New(p))
				ctx, stop := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond/4)
				go func() { _, _ = l.Semaphore("s", 3).AcquireN(ctx, 1+i%3) }()
				go func() { _, _ = l.Semaphore("s", 3).TryAcquire(ctx) }()
				go func() { _, _ = l.RWMutex("m").Lock(ctx) }()
				go func() { _ = l.Barrier("b", 3).Wait(ctx) }()
				d := l.DoubleBarrier("b", 2)
				go func() { _ = d.Enter(ctx) }()
				if r, err := l.RWMutex("m").RLock(ctx); err == nil && i%2 == 0 {
					_ = r.Release(ctx)
				}
				_ = d.Leave(ctx)
				stop()
				assert.NoError(t, l.Close())
			}
		})
	}
	wg.Wait()
	queued(t, p.cli, dir, 0)
}
