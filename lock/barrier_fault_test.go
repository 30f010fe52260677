package lock_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

func TestBarrier_OpensForAllDespiteConnectionLoss(t *testing.T) {
	t.Parallel()
	rounds := 60
	if long() {
		rounds = 2000 // with five parties: 10,000 waits
	}
	var proxies []*etcdtest.Proxy
	testRounds(t, rounds, func(tb testing.TB, dir string) *lock.Locker {
		tb.Helper()
		proxy := etcdtest.NewProxy(tb, etcdtest.Endpoints()[0])
		proxies = append(proxies, proxy)
		l, _ := lockerOver(tb, etcdtest.NewClient(tb, proxy.Endpoints(), harden), dir)
		return l
	}, func(round int) {
		if round%3 == 0 {
			proxies[round/3%len(proxies)].Cut()
		}
	})
}

// By the time the party reads the queue again, the others have left, their keys are gone and the
// history is compacted.
func TestBarrier_LateReaderFindsRoundOpen(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	m := &meeting{t: t, dir: etcdtest.Prefix(t), cli: s.Client(t)}
	proxy := etcdtest.NewProxy(t, s.Endpoint())
	late, _ := lockerOver(t, etcdtest.NewClient(t, proxy.Endpoints(), harden), m.dir)
	l, _ := lockerOver(t, s.Client(t), m.dir)
	one := m.come(timely(t), late.Barrier("b", 3).Wait)
	eventually(t, func() bool { return late.Stats().Watched == 1 })
	proxy.Refuse()
	proxy.Cut()
	two := m.come(timely(t), l.Barrier("b", 3).Wait)
	require.NoError(t, l.Barrier("b", 3).Wait(timely(t)))
	m.pass(two)
	m.keys(1)
	three := m.come(timely(t), l.Barrier("b", 2).Wait) // of a round that has nothing to do with it
	resp, err := m.cli.Put(t.Context(), m.dir+"noise", "")
	require.NoError(t, err)
	s.Compact(resp.Header.Revision)
	m.wait(one)
	proxy.Accept()
	m.pass(one)
	m.keys(1)
	m.wait(three)
	require.NoError(t, l.Barrier("b", 2).Wait(timely(t)))
	m.pass(three)
}

func TestBarrier_LostOpenResponseStillOpens(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	k, cli := newLossy(t)
	l, _ := newLocker(t, m.dir)
	last, _ := lockerOver(t, cli, m.dir)
	one := m.come(timely(t), l.Barrier("b", 2).Wait)
	k.mood.Store(loseNextResponse)
	require.NoError(t, last.Barrier("b", 2).Wait(timely(t)), "the answer to its coming")
	m.pass(one)
	m.keys(0)

	one = m.come(timely(t), last.Barrier("b", 3).Wait)
	two := m.come(timely(t), l.Barrier("b", 3).Wait)
	gate := &lossyOpenKV{KV: cli.KV}
	cli.KV = gate
	third, _ := lockerOver(t, cli, m.dir)
	require.NoError(t, third.Barrier("b", 3).Wait(timely(t)), "the answer to its opening")
	assert.EqualValues(t, 1, gate.lost.Load())
	m.pass(one, two)
	m.keys(0)
}

// lossyOpenKV counts the transactions that put more than one key, and loses the first response to
// one.
type lossyOpenKV struct {
	clientv3.KV

	before func() // nil: the answer is lost
	lost   atomic.Int32
}

func (k *lossyOpenKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	_, then, _ := op.Txn()
	opens := len(then) > 2 && then[1].IsPut()
	if opens && k.before != nil {
		k.before()
	}
	resp, err := k.KV.Do(ctx, op)
	if opens && k.before == nil && k.lost.CompareAndSwap(0, 1) {
		return clientv3.OpResponse{}, context.DeadlineExceeded
	}
	return resp, err
}

// watchingApart returns a locker over cli of which only the watches go through a proxy.
func watchingApart(t *testing.T, cli *clientv3.Client, dir string) (*etcdtest.Proxy, *lock.Locker) {
	t.Helper()
	return lockerApart(t, newParts(t, cli, dir), dir)
}

func lockerApart(t *testing.T, p *parts, dir string) (*etcdtest.Proxy, *lock.Locker) {
	t.Helper()
	proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	apart := etcdtest.Must(watch.New(etcdtest.NewClient(t, proxy.Endpoints(), harden), watch.WithNamespace(dir)))
	t.Cleanup(func() { assert.NoError(t, apart.Close()) })
	p.watcher = apart
	l := etcdtest.Must(lock.New(p))
	l.SetCheckInterval(time.Hour) // grants come from watches
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return proxy, l
}

func TestLocker_PollsWhileWatchesCannotOpen(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	l, _ := newLocker(t, m.dir)
	proxy, blind := watchingApart(t, etcdtest.Client(t), m.dir)
	proxy.Refuse()
	one := m.come(timely(t), blind.Barrier("b", 2).Wait)
	require.NoError(t, l.Barrier("b", 2).Wait(timely(t)), "the other one opens")
	m.pass(one)
	m.keys(0)

	a, b := l.DoubleBarrier("b", 2), blind.DoubleBarrier("b", 2)
	one = m.come(timely(t), a.Enter)
	require.NoError(t, b.Enter(timely(t)), "it opens itself")
	m.pass(one)
	left := waiting(func() (int, error) { return 0, b.Leave(timely(t)) })
	m.keys(1)
	require.NoError(t, a.Leave(timely(t)))
	require.NoError(t, got(t, left).err)
	m.keys(0)

	lost := m.come(timely(t), blind.Barrier("b", 2).Wait)
	_, err := m.cli.Delete(t.Context(), m.dir+"locks/b/", clientv3.WithPrefix())
	require.NoError(t, err)
	require.ErrorIs(t, next(t, lost), lock.ErrLost)
	m.keys(0)

	held := mustAcquire(t, l.Semaphore("s", 2), 2)
	permit := waiting(func() (*lock.Permit, error) { return blind.Semaphore("s", 2).Acquire(timely(t)) })
	queued(t, m.cli, m.dir+"locks/s/", 2)
	mustGive(t, held)
	r := got(t, permit)
	require.NoError(t, r.err)
	mustGive(t, r.v)
	assert.Zero(t, blind.Stats().Watched)
}
