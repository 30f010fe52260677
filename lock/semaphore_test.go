package lock_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

func mustAcquire(tb testing.TB, s *lock.Semaphore, weight int) *lock.Permit {
	tb.Helper()
	p, err := s.AcquireN(timely(tb), weight)
	require.NoError(tb, err)
	return p
}

func TestSemaphore_NeverExceedsN(t *testing.T) {
	t.Parallel()
	const n, clients, each, rounds = 3, 3, 4, 8
	dir := etcdtest.Prefix(t)
	var inside atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		l, _ := newLocker(t, dir)
		for range each {
			wg.Go(func() {
				for range rounds {
					assert.NoError(t, l.Semaphore("s", n).Do(timely(t), func(context.Context, *lock.Permit) error {
						assert.LessOrEqual(t, inside.Add(1), int64(n))
						inside.Add(-1)
						return nil
					}))
				}
			})
		}
	}
	wg.Wait()
	assert.Empty(t, keysUnder(t, etcdtest.Client(t), dir+"locks/"))
}

func TestSemaphore_AdmitsNAtOnce(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, p := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	s := a.Semaphore("s", 2)
	one, two := mustAcquire(t, s, 1), mustAcquire(t, b.Semaphore("s", 2), 1)
	third := waiting(func() (*lock.Permit, error) { return b.Semaphore("s", 2).Acquire(timely(t)) })
	queued(t, p.cli, dir+"locks/s/.sem/", 3)
	eventually(t, func() bool { return b.Stats().Watched >= 2 }, "both block it")
	select {
	case <-third:
		require.Fail(t, "a third of two")
	default:
	}
	mustGive(t, one)
	r := got(t, third)
	require.NoError(t, r.err)
	mustGive(t, r.v)
	mustGive(t, two)
	assert.Empty(t, keysUnder(t, p.cli, dir+"locks/"))
}

func TestSemaphore_UncontendedCost(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	count := etcdtest.Counter(t)
	l, _ := lockerOver(t, count.Client(t), dir)
	l.DisableHoldWatch()
	other, _ := newLocker(t, dir)
	for range 9 {
		mustAcquire(t, other.Semaphore("s", 10), 1)
	}
	count.Reset()
	mustGive(t, mustAcquire(t, l.Semaphore("s", 10), 1))
	assert.Equal(t, map[string]int{"KV/Txn": 2}, count.Counts())
}

func TestSemaphore_WeightsAddUp(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, p := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	s := a.Semaphore("s", 5)
	two, three := mustAcquire(t, s, 2), mustAcquire(t, s, 3)
	four := waiting(func() (*lock.Permit, error) { return b.Semaphore("s", 5).AcquireN(timely(t), 4) })
	queued(t, p.cli, dir+"locks/s/.sem/", 3)
	one := waiting(func() (*lock.Permit, error) { return a.Semaphore("s", 5).Acquire(timely(t)) })
	queued(t, p.cli, dir+"locks/s/.sem/", 4)
	mustGive(t, two) // there is room for one, but it came later than four
	_, err := s.TryAcquire(t.Context())
	require.ErrorIs(t, err, lock.ErrLocked)
	select {
	case <-four:
		require.Fail(t, "four beside three of five")
	case <-one:
		require.Fail(t, "one has overtaken four, and could do so for ever")
	default:
	}
	mustGive(t, three)
	r4, r1 := got(t, four), got(t, one)
	require.NoError(t, r4.err)
	require.NoError(t, r1.err)
	mustGive(t, r4.v)
	mustGive(t, mustAcquire(t, s, 4))
	mustGive(t, r1.v)
	mustGive(t, mustAcquire(t, s, 5))
}

func TestSemaphore_EachAppliesItsOwnN(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	old, p := newLocker(t, dir)
	rolled, _ := newLocker(t, dir)
	small, large := old.Semaphore("s", 2), rolled.Semaphore("s", 4)
	held := []*lock.Permit{mustAcquire(t, small, 1), mustAcquire(t, small, 1), mustAcquire(t, large, 1)}
	_, err := small.TryAcquire(t.Context())
	require.ErrorIs(t, err, lock.ErrLocked)
	held = append(held, mustAcquire(t, large, 1))
	_, err = large.TryAcquire(t.Context())
	require.ErrorIs(t, err, lock.ErrLocked, "never more than the largest")

	late := waiting(func() (*lock.Permit, error) { return small.Acquire(timely(t)) })
	queued(t, p.cli, dir+"locks/s/.sem/", 5)
	mustGive(t, held[0])
	mustGive(t, held[1])
	select {
	case <-late:
		require.Fail(t, "a third by its own number")
	default:
	}
	mustGive(t, held[2])
	r := got(t, late)
	require.NoError(t, r.err)
	mustGive(t, r.v)
	mustGive(t, held[3])
}

func TestSemaphore_TryAcquireNamesHolder(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	s := etcdtest.Start(t)
	count := etcdtest.Counter(t)
	cli := s.Client(t, count.Option)
	l, _ := lockerOver(t, cli, dir)
	l.DisableHoldWatch()
	other, p := lockerOver(t, s.Client(t), dir, lock.WithOwner("the other"))
	try := func(want int) (*lock.Permit, error) {
		count.Reset()
		r, err := l.Semaphore("s", 2).TryAcquire(t.Context())
		assert.Equal(t, map[string]int{"KV/Txn": want}, count.Counts())
		return r, err
	}
	mine, err := try(1)
	require.NoError(t, err)
	mustGive(t, mine)
	one := mustAcquire(t, other.Semaphore("s", 2), 1)
	mine, err = try(2)
	require.NoError(t, err)
	mustGive(t, mine)
	two := mustAcquire(t, other.Semaphore("s", 2), 1)
	before, err := p.cli.Get(t.Context(), "x")
	require.NoError(t, err)
	_, err = try(1)
	locked, ok := errors.AsType[*lock.LockedError](err)
	require.True(t, ok, err)
	assert.Equal(t, lock.LockedError{Name: "s", Owner: "the other"}, *locked)
	after, err := p.cli.Get(t.Context(), "x")
	require.NoError(t, err)
	assert.Equal(t, before.Header.Revision, after.Header.Revision, "nothing was written")
	require.ErrorIs(t, l.Semaphore("s", 2).TryDo(t.Context(), func(context.Context, *lock.Permit) error { panic("held") }), lock.ErrLocked)
	mustGive(t, one)
	require.NoError(t, l.Semaphore("s", 2).TryDo(t.Context(), func(ctx context.Context, p *lock.Permit) error { return p.Verify(ctx) }))
	mustGive(t, two)
}

func TestSemaphore_ConcurrentTryAcquireNeverExceedsN(t *testing.T) {
	t.Parallel()
	const n = 3
	dir := etcdtest.Prefix(t)
	var granted atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		l, _ := newLocker(t, dir)
		for range 6 {
			wg.Go(func() {
				_, err := l.Semaphore("s", n).TryAcquire(timely(t))
				if err == nil {
					granted.Add(1)
				} else {
					assert.ErrorIs(t, err, lock.ErrLocked)
				}
			})
		}
	}
	wg.Wait()
	assert.EqualValues(t, n, granted.Load(), "none is refused for the sake of one that fails")
	assert.Len(t, keysUnder(t, etcdtest.Client(t), dir+"locks/"), n)
}

func TestLocker_InvalidArgumentsSendNothing(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	l, _ := lockerOver(t, count.Client(t), etcdtest.Prefix(t))
	count.Reset()
	acquire := func(s *lock.Semaphore, weight int) func(context.Context) error {
		return func(ctx context.Context) error { _, err := s.AcquireN(ctx, weight); return err }
	}
	try := func(s *lock.Semaphore) func(context.Context) error {
		return func(ctx context.Context) error { _, err := s.TryAcquire(ctx); return err }
	}
	read := func(m *lock.RWMutex) func(context.Context) error {
		return func(ctx context.Context) error { _, err := m.RLock(ctx); return err }
	}
	work := func(context.Context, *lock.Permit) error { return nil }
	for name, call := range map[string]func(context.Context) error{
		"no permits":                  acquire(l.Semaphore("s", 0), 1),
		"fewer than none":             acquire(l.Semaphore("s", math.MinInt), 1),
		"none to try":                 try(l.Semaphore("s", -1)),
		"a weight of 0":               acquire(l.Semaphore("s", 3), 0),
		"a negative weight":           acquire(l.Semaphore("s", 3), -1),
		"more than there is":          acquire(l.Semaphore("s", 3), 4),
		"a semaphore without a name":  acquire(l.Semaphore("", 3), 1),
		"a semaphore's bad name":      try(l.Semaphore("a//b", 3)),
		"a semaphore's do of nothing": func(ctx context.Context) error { return l.Semaphore("s", 1).Do(ctx, nil) },
		"a semaphore's bad do":        func(ctx context.Context) error { return l.Semaphore("/", 1).TryDo(ctx, work) },
		"a reader without a name":     read(l.RWMutex("")),
		"a reader of a hidden dir":    read(l.RWMutex("a/.rw/b")),
		"a writer without a name":     func(ctx context.Context) error { _, err := l.RWMutex("").Lock(ctx); return err },
		"a reader who tries":          func(ctx context.Context) error { _, err := l.RWMutex("/").TryRLock(ctx); return err },
		"a bad read":                  func(ctx context.Context) error { return l.RWMutex("/").RDo(ctx, work) },
		"a barrier for no party":      l.Barrier("b", 0).Wait,
		"a barrier for too many":      l.Barrier("b", 129).Wait,
		"a barrier without a name":    l.Barrier("", 1).Wait,
		"a double one for no party":   l.DoubleBarrier("b", -1).Enter,
		"a double one's bad name":     l.DoubleBarrier("b/", 1).Leave,
		"a party that is not inside":  l.DoubleBarrier("b", 1).Leave,
	} {
		require.ErrorIs(t, call(t.Context()), lock.ErrInvalid, name)
	}
	for name, call := range map[string]func(context.Context) error{
		"Acquire": acquire(l.Semaphore("s", 1), 1), "TryAcquire": try(l.Semaphore("s", 1)), "RLock": read(l.RWMutex("m")),
		"Wait": l.Barrier("b", 1).Wait, "Enter": l.DoubleBarrier("b", 1).Enter,
	} {
		ctx, stop := context.WithCancel(t.Context())
		stop()
		require.ErrorIs(t, call(ctx), context.Canceled, name)
	}
	assert.Zero(t, count.Total(), count.Counts())
}
