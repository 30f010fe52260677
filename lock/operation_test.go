package lock_test

import (
	"context"
	"runtime"
	"testing"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

// observedOperation is an operation that has ended.
type observedOperation struct {
	op  scope.Operation
	res scope.Result
}

// observedParts returns parts whose locks report to the channel, and their scope.
func observedParts(t *testing.T) (*parts, *scope.Scope, <-chan observedOperation) {
	t.Helper()
	ended := make(chan observedOperation, 100)
	sc := scopetest.New(scope.Hooks{Operation: func(ctx context.Context, op scope.Operation) (context.Context, func(scope.Result)) {
		assert.NoError(t, ctx.Err())
		if op.Package != "lock" {
			return nil, nil
		}
		return nil, func(r scope.Result) { ended <- observedOperation{op, r} }
	}})
	dir := etcdtest.Prefix(t)
	p := newParts(t, etcdtest.Client(t), dir)
	p.store = etcdtest.Must(kv.New(p.cli, kv.WithNamespace(dir), scope.Option[kv.Option](sc)))
	return p, sc, ended
}

func TestLocker_ReportsOperations(t *testing.T) {
	t.Parallel()
	p, _, ended := observedParts(t)
	l := etcdtest.Must(lock.New(p))
	want := func(name, target string, err error, token int64) {
		t.Helper()
		got := next(t, ended)
		assert.Equal(t, scope.Operation{Package: "lock", Name: name, Target: target}, got.op)
		if err == nil {
			assert.NoError(t, got.res.Err)
		} else {
			assert.ErrorIs(t, got.res.Err, err)
		}
		assert.Equal(t, token, got.res.Revision, name)
		assert.Equal(t, name != "hold", got.res.Attempts > 0, "%s: %d", name, got.res.Attempts)
	}
	ctx, stop := context.WithCancel(t.Context())
	h, err := l.Mutex("m").Lock(ctx)
	require.NoError(t, err)
	want("wait", "m", nil, h.Token())
	stop() // does not end the hold
	mustRelease(t, h)
	want("hold", "m", nil, h.Token())

	led := mustLead(t, l.Election("e"), "ada")
	want("campaign", "e", nil, led.Token())
	eventually(t, func() bool { return l.Stats().Watched == 1 })
	_, err = p.cli.Revoke(t.Context(), leaseOf(t, p, p.dir+"elections/e/"))
	require.NoError(t, err)
	want("hold", "e", lock.ErrLost, led.Token())

	permit, err := l.Semaphore("s", 1).TryAcquire(timely(t))
	require.NoError(t, err)
	one := next(t, ended)
	assert.Equal(t, scope.Operation{Package: "lock", Name: "try", Target: "s"}, one.op)
	require.NoError(t, l.Close())
	require.ErrorIs(t, permit.Err(), lock.ErrLost)
	want("hold", "s", lock.ErrClosed, one.res.Revision)
}

// A hook that panics when a wait ends leaves the lock with its holder, which can release it.
func TestMutex_PanicOfWaitHookDoesNotLoseTheHold(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	p := newParts(t, etcdtest.Client(t), dir)
	panics := 0
	p.store = etcdtest.Must(kv.New(p.cli, kv.WithNamespace(dir), scopetest.Option[kv.Option](scope.Hooks{
		Operation: func(_ context.Context, op scope.Operation) (context.Context, func(scope.Result)) {
			if op.Package != "lock" || op.Name != "wait" {
				return nil, nil
			}
			return nil, func(scope.Result) { panics++; panic("boom") }
		},
	})))
	m := etcdtest.Must(lock.New(p)).Mutex("m")
	for want := 1; want <= 2; want++ {
		h := mustLock(t, m)
		assert.Equal(t, want, panics)
		require.NoError(t, h.Err())
		mustRelease(t, h)
		queued(t, p.cli, dir+"locks/", 0)
	}
}

func TestLocker_CountsWaits(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, _ := newLocker(t, dir)
	other, p := newLocker(t, dir)
	h := mustLock(t, l.Mutex("m"))
	assert.Zero(t, l.Stats().Waits)
	local := waiting(func() (*lock.Held, error) { return l.Mutex("m").Lock(timely(t)) })
	remote := waiting(func() (*lock.Held, error) { return other.Mutex("m").Lock(timely(t)) })
	eventually(t, func() bool { return l.Stats().Waits == 1 && other.Stats().Waits == 1 })
	queued(t, p.cli, dir+"locks/", 2)
	mustRelease(t, h)
	for _, c := range []<-chan result[*lock.Held]{local, remote} {
		r := got(t, c)
		require.NoError(t, r.err)
		mustRelease(t, r.v)
	}
	assert.EqualValues(t, 1, l.Stats().Waits)
}

func TestMetrics_KeepTotalsOfLockersThatAreGone(t *testing.T) {
	t.Parallel()
	p, sc, _ := observedParts(t)
	use := func() *lock.Locker {
		l := etcdtest.Must(lock.New(p))
		mustRelease(t, mustLock(t, l.Mutex("m")))
		return l
	}
	closed := use()
	assert.Equal(t, 1.0, scopetest.Values(t, sc)["etcdkit_lock_acquired_total"])
	require.NoError(t, closed.Close())
	garbage := weak.Make(use())
	eventually(t, func() bool {
		runtime.GC()
		return garbage.Value() == nil
	}, "metrics do not keep a locker")
	values := scopetest.Values(t, sc)
	assert.Equal(t, 2.0, values["etcdkit_lock_acquired_total"])
	assert.Contains(t, values, "etcdkit_lock_held")
	assert.Zero(t, values["etcdkit_lock_held"])
}
