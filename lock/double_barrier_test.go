package lock_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

func TestDoubleBarrier_SynchronizesEnterAndLeave(t *testing.T) {
	t.Parallel()
	const n, rounds = 5, 10
	dir := etcdtest.Prefix(t)
	var lockers []*lock.Locker
	for range 3 {
		l, _ := newLocker(t, dir)
		lockers = append(lockers, l)
	}
	var came, finished [rounds]atomic.Int32
	var wg sync.WaitGroup
	for i := range n {
		d := lockers[i%len(lockers)].DoubleBarrier("b", n)
		wg.Go(func() {
			for round := range rounds {
				came[round].Add(1)
				if !assert.NoError(t, d.Enter(timely(t))) {
					return
				}
				assert.EqualValues(t, n, came[round].Load(), "entered before all were there")
				finished[round].Add(1)
				if !assert.NoError(t, d.Leave(timely(t))) {
					return
				}
				assert.EqualValues(t, n, finished[round].Load(), "left before all had finished")
			}
		})
	}
	wg.Wait()
	assert.Empty(t, keysUnder(t, etcdtest.Client(t), dir+"locks/"))
}

// pair returns two parties of different processes that are inside.
func pair(t *testing.T, m *meeting) (a, b *lock.DoubleBarrier, pa, pb *parts) {
	t.Helper()
	la, pa := newLocker(t, m.dir)
	lb, pb := newLocker(t, m.dir)
	a, b = la.DoubleBarrier("b", 2), lb.DoubleBarrier("b", 2)
	one := m.come(timely(t), a.Enter)
	m.pass(m.come(timely(t), b.Enter), one)
	return a, b, pa, pb
}

func TestDoubleBarrier_LeaveIgnoresDeadParty(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	a, b, pa, pb := pair(t, m)
	left := waiting(func() (int, error) { return 0, a.Leave(timely(t)) })
	m.keys(1)
	select {
	case <-left:
		require.Fail(t, "has left alone")
	default:
	}
	s, err := pb.leases.Shared(t.Context())
	require.NoError(t, err)
	_, err = pa.cli.Revoke(t.Context(), s.ID())
	require.NoError(t, err)
	require.NoError(t, got(t, left).err)
	m.keys(0)
	require.ErrorIs(t, b.Leave(timely(t)), lock.ErrLost)
	require.ErrorIs(t, b.Leave(timely(t)), lock.ErrInvalid, "it is outside")
}

func TestDoubleBarrier_LeaveReturnsErrLostWhenKeyIsDeleted(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	a, b, pa, _ := pair(t, m)
	_, err := pa.cli.Delete(t.Context(), keysUnder(t, m.cli, m.dir+"locks/b/.bar/")[0])
	require.NoError(t, err)
	m.keys(1)
	require.ErrorIs(t, a.Leave(timely(t)), lock.ErrLost)
	require.NoError(t, b.Leave(timely(t)))
}

func TestDoubleBarrier_CanceledLeaveHasLeft(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	a, b, _, _ := pair(t, m)
	ctx, stop := context.WithCancel(t.Context())
	left := waiting(func() (int, error) { return 0, a.Leave(ctx) })
	m.keys(1)
	stop()
	require.ErrorIs(t, got(t, left).err, context.Canceled)
	m.keys(1)
	require.NoError(t, b.Leave(timely(t)))
	require.ErrorIs(t, a.Leave(timely(t)), lock.ErrInvalid)
}

func TestDoubleBarrier_LeaveWorksWithEndedContext(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	a, b, _, _ := pair(t, m)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	require.ErrorIs(t, a.Leave(ctx), context.Canceled)
	m.keys(1)
	require.NoError(t, b.Leave(timely(t)))
	m.keys(0)
}

func TestDoubleBarrier_RejectsMisuse(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	a, b, _, _ := pair(t, m)
	require.ErrorIs(t, a.Enter(timely(t)), lock.ErrInvalid, "already inside")
	left := waiting(func() (int, error) { return 0, a.Leave(timely(t)) })
	m.keys(1)
	require.ErrorIs(t, a.Enter(timely(t)), lock.ErrInvalid, "leaving")
	require.ErrorIs(t, a.Leave(timely(t)), lock.ErrInvalid, "leaving")
	require.NoError(t, b.Leave(timely(t)))
	require.NoError(t, got(t, left).err)
	m.keys(0)

	again := m.come(timely(t), a.Enter)
	require.NoError(t, b.Enter(timely(t)))
	m.pass(again)
}

func TestDoubleBarrier_NextRoundEntersMeanwhile(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	a, b, _, _ := pair(t, m)
	l, _ := newLocker(t, m.dir)
	c, d := l.DoubleBarrier("b", 2), l.DoubleBarrier("b", 2)
	m.have = 2
	three := m.come(timely(t), c.Enter)
	m.pass(m.come(timely(t), d.Enter), three)
	one := waiting(func() (int, error) { return 0, a.Leave(timely(t)) })
	m.keys(3)
	require.NoError(t, b.Leave(timely(t)), "it leaves with those it has entered with")
	require.NoError(t, got(t, one).err)
	last := waiting(func() (int, error) { return 0, c.Leave(timely(t)) })
	m.keys(1)
	require.NoError(t, d.Leave(timely(t)))
	require.NoError(t, got(t, last).err)
	m.keys(0)
}

func TestBarrier_IsIndependentOfDoubleBarrier(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	l, _ := newLocker(t, m.dir)
	one := m.come(timely(t), l.Barrier("b", 2).Wait)
	d := l.DoubleBarrier("b", 2)
	two := m.come(timely(t), d.Enter)
	m.wait(one, two)
	require.NoError(t, l.Barrier("b", 2).Wait(timely(t)))
	m.pass(one)
	m.keys(1)
	e := l.DoubleBarrier("b", 2)
	require.NoError(t, e.Enter(timely(t)))
	m.pass(two)
}

func TestLocker_CloseEndsDoubleBarrier(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	la, _ := newLocker(t, m.dir)
	lb, _ := newLocker(t, m.dir)
	a, b := la.DoubleBarrier("b", 2), lb.DoubleBarrier("b", 2)
	one := m.come(timely(t), a.Enter)
	require.NoError(t, b.Enter(timely(t)))
	m.pass(one)
	require.NoError(t, lb.Close())
	require.ErrorIs(t, b.Leave(timely(t)), lock.ErrClosed)
	require.NoError(t, a.Leave(timely(t)))
	m.keys(0)
}

// The opening party learns it from etcd's response, before its watch reports it.
func TestDoubleBarrier_LeaveWaitsWhileWatchLags(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	la, _ := newLocker(t, m.dir)
	cli := etcdtest.Client(t)
	proxy, lb := watchingApart(t, cli, m.dir)
	cli.KV = &lossyOpenKV{KV: cli.KV, before: func() { proxy.Hold(false, true) }}

	a, b := la.DoubleBarrier("b", 3), lb.DoubleBarrier("b", 3)
	c := la.DoubleBarrier("b", 3)
	one, two := m.come(timely(t), a.Enter), m.come(timely(t), c.Enter)
	require.NoError(t, b.Enter(timely(t)))
	m.pass(one, two)
	var finished atomic.Bool
	left := waiting(func() (bool, error) {
		err := b.Leave(timely(t))
		return finished.Load(), err
	})
	m.keys(2)
	require.NoError(t, la.Barrier("b", 1).Wait(timely(t))) // some time goes by
	m.keys(2)
	finished.Store(true)
	other := waiting(func() (int, error) { return 0, a.Leave(timely(t)) })
	require.NoError(t, c.Leave(timely(t)))
	require.NoError(t, got(t, other).err)
	proxy.Heal()
	r := got(t, left)
	require.NoError(t, r.err)
	assert.True(t, r.v, "has left before the others had finished")
}

// The party's last read of the barrier precedes its arrival and shows no parties.
func TestDoubleBarrier_LeaveWaitsAfterWatchBroke(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	la, _ := newLocker(t, m.dir)
	proxy, lb := watchingApart(t, etcdtest.Client(t), m.dir)
	require.NoError(t, lb.Barrier("b", 1).Wait(timely(t)))
	m.keys(0)
	eventually(t, func() bool { return lb.Stats().Swept == 1 })
	proxy.Refuse()
	proxy.Cut()

	a, b := la.DoubleBarrier("b", 2), lb.DoubleBarrier("b", 2)
	one := m.come(timely(t), a.Enter)
	require.NoError(t, b.Enter(timely(t)))
	m.pass(one)
	var finished atomic.Bool
	left := waiting(func() (bool, error) {
		err := b.Leave(timely(t))
		return finished.Load(), err
	})
	m.keys(1)
	require.NoError(t, la.Barrier("b", 1).Wait(timely(t))) // some time goes by
	m.keys(1)
	finished.Store(true)
	require.NoError(t, a.Leave(timely(t)))
	r := got(t, left)
	require.NoError(t, r.err)
	assert.True(t, r.v, "has left before the other had finished")
}
