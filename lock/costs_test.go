package lock_test

import (
	"context"
	"errors"
	"maps"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

// spent counts the requests of one process. It omits lease renewals, the watch stream, and the
// reads that are due to writes before a watch was open, which depend on other tests.
type spent struct {
	t         *testing.T
	count     *etcdtest.RPCCounter
	l         *lock.Locker
	confirmed uint64
}

// costs asserts the requests sent since the last call.
func (s *spent) costs(want map[string]int, what string) {
	s.t.Helper()
	eventually(s.t, func() bool { return total(s.now()) >= total(want) }, what)
	assert.Equal(s.t, want, s.now(), what)
	s.reset()
}

func (s *spent) now() map[string]int {
	all := s.count.Counts()
	maps.DeleteFunc(all, func(method string, _ int) bool { return method == "Watch/Watch" || method == "Lease/LeaseKeepAlive" })
	if confirmed := s.l.Stats().Confirmed - s.confirmed; confirmed > 0 {
		all["KV/Txn"] -= int(confirmed)
	}
	return all
}

func (s *spent) reset() {
	s.count.Reset()
	s.confirmed = s.l.Stats().Confirmed
}

func total(counts map[string]int) (n int) {
	for _, one := range counts {
		n += one
	}
	return n
}

// txns returns the counts of n transactions.
func txns(n int) map[string]int { return map[string]int{"KV/Txn": n} }

func newSpender(t *testing.T, dir string) (*lock.Locker, *spent) {
	t.Helper()
	s := &spent{t: t, count: etcdtest.Counter(t)}
	s.l, _ = lockerOver(t, s.count.Client(t), dir)
	s.reset()
	return s.l, s
}

func TestMutex_WaitIsOneRequestMore(t *testing.T) {
	t.Parallel()
	const dir = "d/"
	// Writes of others would cost a mutex one more request.
	alone := etcdtest.Start(t)
	other, p := lockerOver(t, alone.Client(t), dir)
	s := &spent{t: t, count: etcdtest.Counter(t)}
	l, _ := lockerOver(t, alone.Client(t, s.count.Option), dir)
	s.l = l
	s.reset()
	for range 2 {
		h := mustLock(t, other.Mutex("m"))
		late := waiting(func() (*lock.Held, error) { return l.Mutex("m").Lock(timely(t)) })
		queued(t, p.cli, dir+"locks/m/", 2)
		eventually(t, func() bool { return l.Stats().Watched == 1 })
		mustRelease(t, h)
		r := got(t, late)
		require.NoError(t, r.err)
		mustRelease(t, r.v)
		s.costs(txns(3), "lock, look, release")
	}
}

func TestRWMutex_LongHoldIsWatchedForFree(t *testing.T) {
	t.Parallel()
	// Writes of others would cost one more request to confirm the key.
	alone := etcdtest.Start(t)
	s := &spent{t: t, count: etcdtest.Counter(t)}
	l, _ := lockerOver(t, alone.Client(t, s.count.Option), "d/")
	s.l = l
	s.reset()
	for range 2 {
		p := mustRead(t, l.RWMutex("m"))
		eventually(t, func() bool { return l.Stats().Watched == 1 })
		mustGive(t, p)
		s.costs(txns(2), "lock, release")
	}
}

func TestHeld_MethodCosts(t *testing.T) {
	t.Parallel()
	l, s := newSpender(t, etcdtest.Prefix(t))
	l.DisableHoldWatch()
	e := l.Election("e")
	leader := mustLead(t, e, "a")
	s.costs(txns(1), "Campaign")
	seen, enough := context.WithCancel(t.Context())
	defer enough()
	for range 2 { // at once
		first := make(chan lock.Leader, 9)
		go func() {
			for leader, err := range l.Election("other").Observe(seen) {
				if err == nil {
					first <- leader
				}
			}
		}()
		assert.Zero(t, next(t, first))
	}
	s.costs(txns(1), "two who Observe")
	require.NoError(t, leader.Proclaim(t.Context(), "a"))
	s.costs(txns(1), "Proclaim")
	_, err := e.Leader(t.Context())
	require.NoError(t, err)
	s.costs(txns(1), "Leader")
	require.NoError(t, leader.Verify(t.Context()))
	s.costs(txns(1), "Verify")
	bound, stop := leader.Bind(t.Context())
	require.NoError(t, errors.Join(leader.Err(), leader.Context().Err(), bound.Err()))
	stop()
	assert.Len(t, leader.Guard().Compares(), 1)
	s.costs(map[string]int{}, "Err, Context, Bind and Guard")
	require.NoError(t, leader.Release(t.Context()))
	s.costs(txns(1), "Release")

	all, err := l.Multi(l.Mutex("a"), l.Mutex("b")).Lock(timely(t))
	require.NoError(t, err)
	s.costs(txns(2), "Lock of two")
	require.NoError(t, all.Verify(t.Context()))
	s.costs(txns(2), "Verify of two")
	require.NoError(t, all.Release(t.Context()))
	s.costs(txns(2), "Release of two")
}

func TestDoubleBarrier_Cost(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	a, first := newSpender(t, m.dir)
	b, last := newSpender(t, m.dir)
	for range 2 {
		one := m.come(timely(t), a.Barrier("b", 2).Wait)
		require.NoError(t, b.Barrier("b", 2).Wait(timely(t)))
		m.pass(one)
		m.keys(0)
		first.costs(map[string]int{"KV/Txn": 1, "KV/DeleteRange": 1}, "come, go")
		last.costs(map[string]int{"KV/Txn": 2, "KV/DeleteRange": 1}, "come, open, go")
	}
	c, d := a.DoubleBarrier("b", 2), b.DoubleBarrier("b", 2)
	for range 2 {
		one := m.come(timely(t), c.Enter)
		require.NoError(t, d.Enter(timely(t)))
		m.pass(one)
		first.costs(txns(1), "Enter")
		last.costs(txns(2), "Enter, and open")
		left := waiting(func() (struct{}, error) { return struct{}{}, c.Leave(timely(t)) })
		m.keys(1)
		eventually(t, func() bool { return a.Stats().Watched == 1 })
		require.NoError(t, d.Leave(timely(t)))
		require.NoError(t, got(t, left).err)
		m.keys(0)
		first.costs(txns(2), "Leave, look")
		last.costs(txns(1), "Leave")
	}
}
