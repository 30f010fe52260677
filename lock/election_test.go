package lock_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

// mustLead campaigns and returns the leadership.
func mustLead(tb testing.TB, e *lock.Election, value string) *lock.Leadership {
	tb.Helper()
	l, err := e.Campaign(timely(tb), value)
	require.NoError(tb, err)
	return l
}

func TestElection_UncontendedCost(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	l, _ := lockerOver(t, count.Client(t), etcdtest.Prefix(t))
	l.DisableHoldWatch()
	count.Reset()
	leader := mustLead(t, l.Election("e"), "a")
	require.NoError(t, leader.Release(t.Context()))
	assert.Equal(t, map[string]int{"KV/Txn": 2}, count.Counts())
}

func TestElection_LeadersFollowQueueOrder(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, p := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	first := mustLead(t, a.Election("e"), "1")
	second := waiting(func() (*lock.Leadership, error) { return b.Election("e").Campaign(timely(t), "2") })
	queued(t, p.cli, dir+"elections/e/", 2)
	third := waiting(func() (*lock.Leadership, error) { return a.Election("e").Campaign(timely(t), "3") })
	queued(t, p.cli, dir+"elections/e/", 3)

	leader, err := b.Election("e").Leader(t.Context())
	require.NoError(t, err)
	assert.Equal(t, lock.Leader{Value: "1", Token: first.Token()}, leader)
	require.NoError(t, first.Release(t.Context()))
	r := got(t, second)
	require.NoError(t, r.err)
	assert.Greater(t, r.v.Token(), first.Token())
	require.NoError(t, r.v.Release(t.Context()))
	last := got(t, third)
	require.NoError(t, last.err)
	assert.Greater(t, last.v.Token(), r.v.Token())
	require.NoError(t, last.v.Release(t.Context()))
	_, err = b.Election("e").Leader(t.Context())
	require.ErrorIs(t, err, lock.ErrNoLeader)
	assert.EqualError(t, err, `lock: leader "e": no leader`)
}

func TestLeadership_ProclaimChangesOnlyTheValue(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	leader := mustLead(t, l.Election("e"), "old")
	for _, v := range []string{"new", "newer"} {
		require.NoError(t, leader.Proclaim(t.Context(), v))
		got, err := l.Election("e").Leader(t.Context())
		require.NoError(t, err)
		assert.Equal(t, lock.Leader{Value: v, Token: leader.Token()}, got)
	}
	_, err := p.store.Put(t.Context(), "x", nil, kv.WithGuard(leader))
	require.NoError(t, err, "the guard holds on")
	require.NoError(t, leader.Verify(t.Context()))
	require.NoError(t, leader.Release(t.Context()))
	require.ErrorIs(t, leader.Proclaim(t.Context(), "late"), lock.ErrReleased)
	_, err = p.store.Put(t.Context(), "x", nil, kv.WithGuard(leader))
	require.ErrorIs(t, err, kv.ErrGuard)
	require.ErrorIs(t, err, lock.ErrLost)
}

// A candidate that waited only for the keys ahead would win although its own key was deleted.
func TestElection_CandidateWithoutKeyNeverWins(t *testing.T) {
	t.Parallel()
	rows := map[string]func(t *testing.T, p *parts, key string){
		"its key is deleted": func(t *testing.T, p *parts, key string) {
			t.Helper()
			_, err := p.cli.Delete(t.Context(), key)
			require.NoError(t, err)
		},
		"its lease is revoked": func(t *testing.T, p *parts, key string) {
			t.Helper()
			resp, err := p.cli.Get(t.Context(), key)
			require.NoError(t, err)
			_, err = p.cli.Revoke(t.Context(), clientv3.LeaseID(resp.Kvs[0].Lease))
			require.NoError(t, err)
		},
	}
	for name, harm := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := etcdtest.Prefix(t)
			a, p := newLocker(t, dir)
			b, _ := newLocker(t, dir)
			c, _ := newLocker(t, dir)
			leader := mustLead(t, a.Election("e"), "a")
			victim := waiting(func() (*lock.Leadership, error) { return b.Election("e").Campaign(timely(t), "b") })
			queued(t, p.cli, dir+"elections/e/", 2)
			heir := waiting(func() (*lock.Leadership, error) { return c.Election("e").Campaign(timely(t), "c") })
			queued(t, p.cli, dir+"elections/e/", 3)

			harm(t, p, keysUnder(t, p.cli, dir+"elections/e/")[1])
			require.NoError(t, leader.Release(t.Context()))
			require.ErrorIs(t, got(t, victim).err, lock.ErrLost)
			r := got(t, heir)
			require.NoError(t, r.err)
			require.NoError(t, r.v.Release(t.Context()))
		})
	}
}

func TestElection_ObserveYieldsEveryChange(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, _ := newLocker(t, dir)
	b, p := newLocker(t, dir)
	e := a.Election("e")
	ctx, stop := context.WithCancel(t.Context())
	seen := make(chan lock.Leader)
	ended := make(chan error, 1)
	go func() {
		for leader, err := range b.Election("e").Observe(ctx) {
			if err != nil {
				ended <- err
				return
			}
			seen <- leader
		}
	}()
	expect := func(want lock.Leader) {
		t.Helper()
		assert.Equal(t, want, next(t, seen))
	}
	expect(lock.Leader{})
	first := mustLead(t, e, "1")
	expect(lock.Leader{Value: "1", Token: first.Token()})
	require.NoError(t, first.Proclaim(t.Context(), "one"))
	expect(lock.Leader{Value: "one", Token: first.Token()})
	require.NoError(t, first.Release(t.Context()))
	expect(lock.Leader{})
	second := mustLead(t, e, "2")
	expect(lock.Leader{Value: "2", Token: second.Token()})
	_, err := p.cli.Revoke(t.Context(), leaseOf(t, p, dir+"elections/e/"))
	require.NoError(t, err)
	expect(lock.Leader{})
	stop()
	require.ErrorIs(t, <-ended, context.Canceled)
}

// leaseOf returns the lease of the first key below prefix.
func leaseOf(tb testing.TB, p *parts, prefix string) clientv3.LeaseID {
	tb.Helper()
	resp, err := p.cli.Get(tb.Context(), prefix, clientv3.WithFirstCreate()...)
	require.NoError(tb, err)
	require.NotEmpty(tb, resp.Kvs)
	return clientv3.LeaseID(resp.Kvs[0].Lease)
}

func TestElection_ObserveEndsWithItsLoop(t *testing.T) {
	t.Parallel()
	l, _ := newLocker(t, etcdtest.Prefix(t))
	for leader, err := range l.Election("e").Observe(t.Context()) {
		require.NoError(t, err)
		assert.Zero(t, leader)
		break
	}
	for _, err := range l.Election("/").Observe(t.Context()) {
		require.ErrorIs(t, err, lock.ErrInvalid)
	}
	require.NoError(t, l.Close())
	for _, err := range l.Election("e").Observe(t.Context()) {
		require.ErrorIs(t, err, lock.ErrClosed)
	}
}

// TestElection_ObserveStartsAgainAfterError begins a second loop while the body of the first one
// runs, and the error that ended their common observation is still to be delivered.
func TestElection_ObserveStartsAgainAfterError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(2 * time.Millisecond)
		e := f.locker(t).Election("e")
		var refused atomic.Bool
		f.mu.Lock()
		f.fate = func(string, int) fakeFate {
			fate := fakeFate{applied: time.Millisecond, answered: 2 * time.Millisecond}
			if refused.Load() {
				fate.err = rpctypes.ErrGRPCPermissionDenied
			}
			return fate
		}
		f.mu.Unlock()
		for leader, err := range e.Observe(t.Context()) {
			require.NoError(t, err)
			assert.Zero(t, leader)
			refused.Store(true)
			for _, err := range e.Observe(t.Context()) {
				if err != nil {
					require.ErrorIs(t, err, lock.ErrPermission, "from the next check")
				}
			}
			refused.Store(false)
			for leader, err := range e.Observe(t.Context()) {
				require.NoError(t, err)
				assert.Zero(t, leader)
				break
			}
			break
		}
	})
}

func TestElection_RunCampaignsAgainAfterLoss(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	ctx, stop := context.WithCancel(t.Context())
	terms := make(chan *lock.Leadership)
	running := 0
	done := waiting(func() (struct{}, error) {
		return struct{}{}, l.Election("e").Run(ctx, "me", func(ctx context.Context, leader *lock.Leadership) error {
			running++
			assert.Equal(t, 1, running)
			defer func() { running-- }()
			terms <- leader
			<-ctx.Done()
			return ctx.Err()
		})
	})
	first := next(t, terms)
	_, err := p.cli.Delete(t.Context(), keysUnder(t, p.cli, dir+"elections/e/")[0])
	require.NoError(t, err)
	second := next(t, terms)
	require.ErrorIs(t, first.Release(t.Context()), lock.ErrReleased, "the first term was ended before the second")
	require.ErrorIs(t, context.Cause(first.Context()), lock.ErrLost)
	assert.Greater(t, second.Token(), first.Token())
	stop()
	require.NoError(t, got(t, done).err)
	assert.Empty(t, keysUnder(t, p.cli, dir+"elections/"), "it has resigned")
}

func TestElection_RunReturnsWithItsFunction(t *testing.T) {
	t.Parallel()
	l, p := newLocker(t, etcdtest.Prefix(t))
	e := l.Election("e")
	boom := errors.New("boom")
	for name, want := range map[string]error{"an error": boom, "success": nil, "a deadline of its own": context.DeadlineExceeded} {
		assert.Equal(t, want, e.Run(timely(t), name, func(context.Context, *lock.Leadership) error { return want }), name)
	}
	assert.Panics(t, func() { _ = e.Run(timely(t), "x", func(context.Context, *lock.Leadership) error { panic("oh") }) })
	assert.Empty(t, keysUnder(t, p.cli, p.dir+"elections/"))
	require.ErrorIs(t, e.Run(t.Context(), "x", nil), lock.ErrInvalid)
	require.ErrorIs(t, l.Election("").Run(t.Context(), "x", func(context.Context, *lock.Leadership) error { return nil }), lock.ErrInvalid)
	ended, stop := context.WithCancel(t.Context())
	stop()
	require.NoError(t, e.Run(ended, "x", func(context.Context, *lock.Leadership) error { return boom }))
}

func TestElection_RunLeaderCanFinishAfterContextEnds(t *testing.T) {
	t.Parallel()
	l, p := newLocker(t, etcdtest.Prefix(t))
	ctx, stop := context.WithCancel(t.Context())
	require.NoError(t, l.Election("e").Run(ctx, "me", func(ctx context.Context, leader *lock.Leadership) error {
		stop()
		<-ctx.Done()
		_, err := p.store.Put(leader.Context(), "handed", []byte("over"), kv.WithGuard(leader))
		return err
	}))
	e, err := p.store.Get(t.Context(), "handed")
	require.NoError(t, err)
	assert.Equal(t, "over", string(e.Value))
}
