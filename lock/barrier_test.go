package lock_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

// meeting is one barrier, used by several processes.
type meeting struct {
	t    *testing.T
	dir  string
	cli  *clientv3.Client
	have int // keys
}

func newMeeting(t *testing.T) *meeting {
	t.Helper()
	return &meeting{t: t, dir: etcdtest.Prefix(t), cli: etcdtest.Client(t)}
}

// come starts a call of a party and returns once its key exists.
func (m *meeting) come(ctx context.Context, call func(context.Context) error) <-chan error {
	m.t.Helper()
	out := make(chan error, 1)
	go func() { out <- call(ctx) }()
	m.have++
	m.keys(m.have)
	return out
}

func (m *meeting) keys(n int) {
	m.t.Helper()
	m.have = n
	queued(m.t, m.cli, m.dir+"locks/b/.bar/", n)
}

// wait asserts that no party has passed yet.
func (m *meeting) wait(all ...<-chan error) {
	m.t.Helper()
	for _, one := range all {
		select {
		case err := <-one:
			require.Fail(m.t, "has not waited", "%v", err)
		default:
		}
	}
}

// pass asserts that all parties pass.
func (m *meeting) pass(all ...<-chan error) {
	m.t.Helper()
	for _, one := range all {
		require.NoError(m.t, next(m.t, one))
	}
}

func TestBarrier_OpensWhenAllWait(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	a, pa := newLocker(t, m.dir)
	b, _ := newLocker(t, m.dir)
	c, pc := newLocker(t, m.dir)
	at := func(l *lock.Locker) func(context.Context) error { return l.Barrier("b", 5).Wait }

	one, two, three := m.come(timely(t), at(a)), m.come(timely(t), at(a)), m.come(timely(t), at(b))
	ctx, stop := context.WithCancel(t.Context())
	leaver := m.come(ctx, at(b))
	m.wait(one, two, three, leaver)
	stop()
	require.ErrorIs(t, next(t, leaver), context.Canceled)
	m.keys(3)

	dying := m.come(timely(t), at(c))
	m.wait(one, two, three, dying)
	s, err := pc.leases.Shared(t.Context())
	require.NoError(t, err)
	_, err = pa.cli.Revoke(t.Context(), s.ID())
	require.NoError(t, err)
	require.ErrorIs(t, next(t, dying), lock.ErrLost)
	m.keys(3)

	four := m.come(timely(t), at(c))
	m.wait(one, two, three, four)
	assert.Equal(t, 2, a.Stats().Waiting)
	require.NoError(t, b.Barrier("b", 5).Wait(timely(t)))
	m.pass(one, two, three, four)
	m.keys(0)
	assert.Zero(t, a.Stats().Waiting)
}

func TestBarrier_ExtraPartyWaitsForNextRound(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	a, _ := newLocker(t, m.dir)
	b, _ := newLocker(t, m.dir)
	cli := etcdtest.Client(t)
	one := m.come(timely(t), a.Barrier("b", 2).Wait)
	gate := &parkingKV{KV: cli.KV, applied: make(chan struct{}), goOn: make(chan struct{})}
	cli.KV = gate
	held, _ := lockerOver(t, cli, m.dir)
	gate.armed.Store(true) // the second does not know yet that its key is there
	two := m.come(timely(t), held.Barrier("b", 2).Wait)
	three := m.come(timely(t), b.Barrier("b", 2).Wait)
	m.wait(one, two, three)
	close(gate.goOn)
	m.pass(one, two)
	m.keys(1)
	m.wait(three)
	require.NoError(t, a.Barrier("b", 2).Wait(timely(t)))
	m.pass(three)
	m.keys(0)
}

func TestBarrier_IsReusable(t *testing.T) {
	t.Parallel()
	testRounds(t, 15, func(tb testing.TB, dir string) *lock.Locker {
		tb.Helper()
		l, _ := newLocker(tb, dir)
		return l
	}, func(int) {})
}

// testRounds makes five parties of three processes meet repeatedly. The first party of a round
// calls before.
func testRounds(t *testing.T, rounds int, locker func(tb testing.TB, dir string) *lock.Locker, before func(round int)) {
	t.Helper()
	const n = 5
	dir := etcdtest.Prefix(t)
	var lockers []*lock.Locker
	for range 3 {
		lockers = append(lockers, locker(t, dir))
	}
	arrived := make([]atomic.Int32, rounds)
	var wg sync.WaitGroup
	for i := range n {
		b := lockers[i%len(lockers)].Barrier("b", n)
		wg.Go(func() {
			for round := range rounds {
				if arrived[round].Add(1) == 1 {
					before(round)
				}
				if !assert.NoError(t, b.Wait(timely(t))) {
					return
				}
				assert.EqualValues(t, n, arrived[round].Load(), "passed before all were there")
			}
		})
	}
	wg.Wait()
	queued(t, etcdtest.Client(t), dir+"locks/", 0)
}

func TestBarrier_WaitCost(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	l, s := newSpender(t, m.dir)
	require.NoError(t, l.Barrier("b", 1).Wait(timely(t)))
	s.costs(map[string]int{"KV/Txn": 2, "KV/DeleteRange": 1}, "come, open, go")
	require.NoError(t, l.Barrier("b", 1).Wait(timely(t)))
	s.costs(map[string]int{"KV/Txn": 2, "KV/DeleteRange": 1}, "come, open, go")
}

func TestBarrier_OpensForMaxParties(t *testing.T) {
	t.Parallel()
	const n = 128
	m := newMeeting(t)
	l, _ := newLocker(t, m.dir)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() { assert.NoError(t, l.Barrier("b", n).Wait(timely(t))) })
	}
	wg.Wait()
	m.keys(0)
}

func TestLocker_CloseEndsBarrierWait(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	l, _ := newLocker(t, m.dir)
	one := m.come(t.Context(), l.Barrier("b", 2).Wait)
	require.NoError(t, l.Close())
	require.ErrorIs(t, next(t, one), lock.ErrClosed)
	m.keys(0)
	require.ErrorIs(t, l.Barrier("b", 2).Wait(t.Context()), lock.ErrClosed)
}

func TestBarrier_WaitReturnsErrLostWhenKeyChanges(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(*clientv3.Client, string) error{
		"deleted":     func(cli *clientv3.Client, key string) error { _, err := cli.Delete(t.Context(), key); return err },
		"overwritten": func(cli *clientv3.Client, key string) error { _, err := cli.Put(t.Context(), key, ""); return err },
	} {
		m := newMeeting(t)
		l, _ := newLocker(t, m.dir)
		one := m.come(timely(t), l.Barrier("b", 2).Wait)
		require.NoError(t, harm(m.cli, keysUnder(t, m.cli, m.dir+"locks/b/")[0]), name)
		require.ErrorIs(t, next(t, one), lock.ErrLost, name)
		m.keys(0)
	}
}
