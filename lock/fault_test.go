package lock_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

// lossyKV loses the responses to writing transactions while mood says so.
type lossyKV struct {
	clientv3.KV

	mood  atomic.Int32
	under atomic.Int32 // way
}

// The moods of a lossyKV.
const (
	healthy          int32 = iota
	loseResponses          // applied, but the response is lost
	loseNextResponse       // once
	applyLate              // applied two seconds later, and the response is lost
	dropRequests           // neither applied nor answered
)

func newLossy(tb testing.TB) (*lossyKV, *clientv3.Client) {
	tb.Helper()
	cli := etcdtest.Client(tb)
	k := &lossyKV{KV: cli.KV}
	cli.KV = k
	tb.Cleanup(func() { k.arrived(tb) })
	return k, cli
}

// arrived waits until no request is in flight.
func (k *lossyKV) arrived(tb testing.TB) {
	tb.Helper()
	eventually(tb, func() bool { return k.under.Load() == 0 })
}

func (k *lossyKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	_, then, _ := op.Txn()
	writes := false
	for _, one := range then {
		writes = writes || !one.IsGet()
	}
	mood := k.mood.Load()
	if !writes || mood == healthy {
		return k.KV.Do(ctx, op)
	}
	apply := func() { _, _ = k.KV.Do(context.WithoutCancel(ctx), op) }
	switch mood {
	case loseResponses:
		apply()
	case loseNextResponse:
		k.mood.Store(healthy)
		apply()
	case applyLate:
		k.under.Add(1)
		go func() {
			defer k.under.Add(-1)
			time.Sleep(2 * time.Second) // the time that the request is under way
			apply()
		}()
	}
	return clientv3.OpResponse{}, status.Error(codes.Unavailable, "error reading from server: EOF")
}

func TestMutex_LockSucceedsWhenResponseIsLost(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	k, cli := newLossy(t)
	l, p := lockerOver(t, cli, dir)
	for name, lockIt := range map[string]func(context.Context) (*lock.Held, error){"Lock": l.Mutex("m").Lock, "TryLock": l.Mutex("m").TryLock} {
		k.mood.Store(loseNextResponse)
		h, err := lockIt(timely(t))
		require.NoError(t, err, name)
		assert.Len(t, keysUnder(t, cli, dir+"locks/"), 1)
		require.NoError(t, h.Verify(t.Context()))
		k.mood.Store(loseNextResponse)
		require.NoError(t, h.Release(t.Context()), "a release whose answer was lost")
		assert.Empty(t, keysUnder(t, cli, dir+"locks/"))
	}
	leader := mustLead(t, l.Election("e"), "a")
	k.mood.Store(loseNextResponse)
	require.NoError(t, leader.Proclaim(t.Context(), "b"))
	require.NoError(t, leader.Proclaim(t.Context(), "c"))
	e, err := p.store.Get(t.Context(), strings.TrimPrefix(keysUnder(t, cli, dir+"elections/")[0], dir))
	require.NoError(t, err)
	assert.Equal(t, "c", string(e.Value))
	require.NoError(t, leader.Release(t.Context()))
}

// A request that is known to have been applied cannot be applied late. Its key need not be swept,
// which would end the use of the session.
func TestMutex_LostAnswerDoesNotCostTheSession(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	k, cli := newLossy(t)
	l, p := lockerOver(t, cli, dir)
	for name, lockIt := range map[string]func(context.Context) (*lock.Held, error){"Lock": l.Mutex("m").Lock, "TryLock": l.Mutex("m").TryLock} {
		k.mood.Store(loseNextResponse)
		h, err := lockIt(timely(t))
		require.NoError(t, err, name)
		first := leaseOf(t, p, dir+"locks/m/")
		mustRelease(t, h)
		h = mustLock(t, l.Mutex("m"))
		assert.Equal(t, first, leaseOf(t, p, dir+"locks/m/"), name)
		mustRelease(t, h)
	}
}

func TestMutex_TurnTokenRisesWhenResponseIsLost(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	k, cli := newLossy(t)
	l, _ := lockerOver(t, cli, dir)
	h := mustLock(t, l.Mutex("m"))
	next := waiting(func() (*lock.Held, error) { return l.Mutex("m").Lock(timely(t)) })
	eventually(t, func() bool { return l.Stats().Waiting == 1 })
	k.mood.Store(loseNextResponse)
	mustRelease(t, h)
	r := got(t, next)
	require.NoError(t, r.err)
	assert.Greater(t, r.v.Token(), h.Token())
	require.NoError(t, r.v.Verify(t.Context()))
	mustRelease(t, r.v)
}

func TestMutex_UnansweredLockLeavesNoKey(t *testing.T) {
	t.Parallel()
	trials := 1
	if long() {
		trials = 17 // of each of the six: a hundred
	}
	for name, mood := range map[string]int32{"applied at once": loseResponses, "applied late": applyLate, "never applied": dropRequests} {
		for verb, lockIt := range map[string]func(l *lock.Locker, ctx context.Context) error{
			"lock":     func(l *lock.Locker, ctx context.Context) error { _, err := l.Mutex("m").Lock(ctx); return err },
			"try lock": func(l *lock.Locker, ctx context.Context) error { _, err := l.Mutex("m").TryLock(ctx); return err },
		} {
			for range trials {
				t.Run(verb+", "+name, func(t *testing.T) {
					t.Parallel()
					dir := etcdtest.Prefix(t)
					k, cli := newLossy(t)
					l, _ := lockerOver(t, cli, dir)
					k.mood.Store(mood)
					ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
					defer stop()
					err := lockIt(l, ctx)
					require.ErrorIs(t, err, context.DeadlineExceeded)
					require.NotErrorIs(t, err, lock.ErrUnknownOutcome, "it does not hold, for certain")
					k.mood.Store(healthy)
					k.arrived(t)

					other, _ := newLocker(t, dir)
					mustRelease(t, mustLock(t, other.Mutex("m")))
					queued(t, cli, dir+"locks/m/", 0)
					assert.Zero(t, l.Stats().Held)
				})
			}
		}
	}
}

func TestLocker_CallsReturnWithContextOnDeadLink(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	l, _ := lockerOver(t, etcdtest.NewClient(t, proxy.Endpoints()), dir)
	direct := etcdtest.Client(t)
	h := mustLock(t, l.Mutex("held"))
	proxy.Blackhole(false, true)
	for name, call := range map[string]func(context.Context) error{
		"Lock":     func(ctx context.Context) error { _, err := l.Mutex("m").Lock(ctx); return err },
		"TryLock":  func(ctx context.Context) error { _, err := l.Mutex("n").TryLock(ctx); return err },
		"Campaign": func(ctx context.Context) error { _, err := l.Election("e").Campaign(ctx, "x"); return err },
		"Release":  h.Release,
	} {
		ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
		began := time.Now()
		err := call(ctx)
		stop()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
		assert.Less(t, time.Since(began), 3*time.Second, name)
	}
	proxy.Heal()
	queued(t, direct, dir+"locks/", 0)
	queued(t, direct, dir+"elections/", 0)
}

func TestMutex_WaiterChecksAfterWatchReopens(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	l, p := lockerOver(t, etcdtest.NewClient(t, proxy.Endpoints()), dir)
	other, _ := newLocker(t, dir)
	h := mustLock(t, other.Mutex("m"))
	late := waiting(func() (*lock.Held, error) { return l.Mutex("m").Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/", 2)
	eventually(t, func() bool { return l.Stats().Watched == 1 })
	proxy.Refuse()
	proxy.Cut()
	mustRelease(t, h) // while the other side has no watch
	proxy.Accept()
	r := got(t, late)
	require.NoError(t, r.err)
	require.NoError(t, r.v.Verify(t.Context()))
	assert.Greater(t, r.v.Token(), h.Token())
	mustRelease(t, r.v)
}

func TestMutex_LockSurvivesCompaction(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	dir := etcdtest.Prefix(t)
	proxy := etcdtest.NewProxy(t, s.Endpoint())
	l, _ := lockerOver(t, etcdtest.NewClient(t, proxy.Endpoints()), dir)
	other, far := lockerOver(t, s.Client(t), dir)
	h := mustLock(t, other.Mutex("m"))
	late := waiting(func() (*lock.Held, error) { return l.Mutex("m").Lock(timely(t)) })
	queued(t, far.cli, dir+"locks/m/", 2)
	eventually(t, func() bool { return l.Stats().Watched == 1 })
	proxy.Refuse()
	proxy.Cut()
	mustRelease(t, h)
	var rev int64
	for range 20 {
		resp, err := far.cli.Put(t.Context(), dir+"noise", "")
		require.NoError(t, err)
		rev = resp.Header.Revision
	}
	s.Compact(rev)
	proxy.Accept()
	r := got(t, late)
	require.NoError(t, r.err)
	eventually(t, func() bool { return l.Stats().Reopened > 0 }, "the watch is begun anew")
	assert.Greater(t, r.v.Token(), h.Token())
	mustRelease(t, r.v)
}

func TestElection_ObserveSurvivesCompaction(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	dir := etcdtest.Prefix(t)
	proxy := etcdtest.NewProxy(t, s.Endpoint())
	l, _ := lockerOver(t, etcdtest.NewClient(t, proxy.Endpoints()), dir)
	other, far := lockerOver(t, s.Client(t), dir)
	first := mustLead(t, other.Election("e"), "1")
	saw := false
	for leader, err := range l.Election("e").Observe(timely(t)) {
		require.NoError(t, err)
		if leader.Value == "2" {
			break
		}
		if leader.Value != "1" || saw {
			continue // a vacancy in between
		}
		saw = true
		proxy.Refuse()
		proxy.Cut()
		require.NoError(t, first.Release(t.Context()))
		mustLead(t, other.Election("e"), "2")
		resp, err := far.cli.Put(t.Context(), dir+"noise", "")
		require.NoError(t, err)
		s.Compact(resp.Header.Revision)
		proxy.Accept()
	}
	assert.True(t, saw)
}

func TestMutex_ExcludesDespiteConnectionLoss(t *testing.T) {
	t.Parallel()
	const clients, rounds = 4, 20
	dir := etcdtest.Prefix(t)
	var holders, granted atomic.Int32
	var top atomic.Int64
	stop := make(chan struct{})
	var cutters, wg sync.WaitGroup
	for range clients {
		proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
		l, _ := lockerOver(t, etcdtest.NewClient(t, proxy.Endpoints(), harden), dir)
		cutters.Go(func() {
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					proxy.Cut()
				case <-stop:
					return
				}
			}
		})
		for range 2 {
			wg.Go(func() {
				for range rounds {
					h, err := l.Mutex("m").Lock(timely(t))
					if err != nil {
						continue // an answer is an answer
					}
					granted.Add(1)
					assert.EqualValues(t, 1, holders.Add(1))
					assert.Less(t, top.Swap(h.Token()), h.Token())
					holders.Add(-1)
					_ = h.Release(timely(t))
				}
			})
		}
	}
	wg.Wait()
	close(stop)
	cutters.Wait()
	assert.Greater(t, int(granted.Load()), clients*rounds)
	queued(t, etcdtest.Client(t), dir+"locks/m/", 0)
}
