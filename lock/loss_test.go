package lock_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

func TestHeld_LostWhenLeaseIsRevoked(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	h := mustLock(t, l.Mutex("m"))
	eventually(t, func() bool { return l.Stats().Watched == 1 })
	bound, stop := h.Bind(t.Context())
	defer stop()
	_, err := p.cli.Revoke(t.Context(), leaseOf(t, p, dir+"locks/m/"))
	require.NoError(t, err)
	closed(t, bound.Done(), "the bound context ends")
	require.ErrorIs(t, context.Cause(bound), lock.ErrLost)
	require.ErrorIs(t, h.Release(t.Context()), lock.ErrLost)
	assert.EqualValues(t, 1, l.Stats().Lost)
	assert.Zero(t, l.Stats().Held)

	// The session is replaced for the next acquisition.
	next := mustLock(t, l.Mutex("m"))
	assert.Greater(t, next.Token(), h.Token())
	mustRelease(t, next)
}

func TestLocker_ReplacesRevokedLease(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	s, err := p.leases.Shared(t.Context())
	require.NoError(t, err)
	_, err = p.cli.Revoke(t.Context(), s.ID())
	require.NoError(t, err)
	h := mustLock(t, l.Mutex("m"))
	mustRelease(t, h)
	try, err := l.Mutex("m").TryLock(t.Context())
	require.NoError(t, err)
	mustRelease(t, try)
}

func TestHeld_LostWhenKeyIsOverwritten(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	h := mustLock(t, l.Mutex("m"))
	eventually(t, func() bool { return l.Stats().Watched == 1 })
	// The put takes the key off its lease.
	_, err := p.cli.Put(t.Context(), keysUnder(t, p.cli, dir+"locks/m/")[0], "mine now")
	require.NoError(t, err)
	closed(t, h.Context().Done(), "the context ends")
	require.ErrorIs(t, h.Release(t.Context()), lock.ErrLost)
	queued(t, p.cli, dir+"locks/m/", 0)
}

func TestHeld_VerifyDetectsLoss(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	h := mustLock(t, l.Mutex("m"))
	require.NoError(t, h.Verify(t.Context()))
	_, err := p.cli.Delete(t.Context(), dir+"locks/m/", clientv3.WithPrefix())
	require.NoError(t, err)
	err = h.Verify(t.Context())
	require.ErrorIs(t, err, lock.ErrLost)
	require.ErrorIs(t, context.Cause(h.Context()), lock.ErrLost)
	require.ErrorIs(t, h.Release(t.Context()), lock.ErrLost)
}

func TestHeld_ReleaseDetectsLoss(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	h := mustLock(t, l.Mutex("m"))
	_, err := p.cli.Delete(t.Context(), dir+"locks/m/", clientv3.WithPrefix())
	require.NoError(t, err)
	require.ErrorIs(t, h.Release(t.Context()), lock.ErrLost)
}

func TestMutex_LockReturnsErrLostWhenSessionEnds(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, _ := newLocker(t, dir)
	b, p := newLocker(t, dir)
	h := mustLock(t, a.Mutex("m"))
	late := waiting(func() (*lock.Held, error) { return b.Mutex("m").Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/", 2)
	s, err := p.leases.Shared(t.Context())
	require.NoError(t, err)
	_, err = p.cli.Revoke(t.Context(), s.ID())
	require.NoError(t, err)
	require.ErrorIs(t, got(t, late).err, lock.ErrLost)
	mustRelease(t, h)
}

// unansweredKV loses the responses to reads while it is on.
type unansweredKV struct {
	clientv3.KV

	now   atomic.Bool
	reads atomic.Int32
}

func (k *unansweredKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	_, then, _ := op.Txn()
	writes := op.IsDelete() || slices.ContainsFunc(then, func(op clientv3.Op) bool { return !op.IsGet() })
	if !k.now.Load() || writes {
		return k.KV.Do(ctx, op)
	}
	k.reads.Add(1)
	<-ctx.Done()
	return clientv3.OpResponse{}, ctx.Err()
}

func TestMutex_LockReturnsWithSessionWithoutResponse(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, _ := newLocker(t, dir)
	cli := etcdtest.Client(t)
	k := &unansweredKV{KV: cli.KV}
	cli.KV = k
	p := newParts(t, cli, dir)
	proxy, b := lockerApart(t, p, dir)
	h := mustLock(t, a.Mutex("m"))
	late := waiting(func() (*lock.Held, error) { return b.Mutex("m").Lock(timely(t)) })
	queued(t, cli, dir+"locks/m/", 2)
	eventually(t, func() bool { return b.Stats().Watched == 1 })
	k.now.Store(true)
	proxy.Refuse()
	proxy.Cut()
	mustRelease(t, h)
	proxy.Accept()
	eventually(t, func() bool { return k.reads.Load() > 0 }, "it makes sure of what it may have missed")
	s, err := p.leases.Shared(t.Context())
	require.NoError(t, err)
	_, err = cli.Revoke(t.Context(), s.ID())
	require.NoError(t, err)
	require.Error(t, s.Verify(t.Context()))
	reads := k.reads.Load()
	require.ErrorIs(t, got(t, late).err, lock.ErrLost)
	assert.Equal(t, reads, k.reads.Load(), "it has not read again")
	k.now.Store(false)
	queued(t, cli, dir+"locks/m/", 0)
}

func TestMutex_DoReturnsErrLost(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	for name, f := range map[string]func(ctx context.Context) error{
		"though its function has not noticed":  func(context.Context) error { return nil },
		"where its function returns the cause": func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) },
		"where it returns what ctx says":       func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		err := l.Mutex("m").Do(t.Context(), func(ctx context.Context, _ *lock.Held) error {
			_, err := p.cli.Delete(t.Context(), dir+"locks/m/", clientv3.WithPrefix())
			require.NoError(t, err)
			return f(ctx)
		})
		require.ErrorIs(t, err, lock.ErrLost, name)
	}
}

func TestHeld_GuardRefusesFormerHolder(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir)
	other, _ := newLocker(t, dir)
	write := func(h *lock.Held) error {
		_, err := p.store.Put(t.Context(), "resource", nil, kv.WithGuard(h))
		return err
	}
	refused := func(h *lock.Held) {
		t.Helper()
		err := write(h)
		require.ErrorIs(t, err, kv.ErrGuard)
		require.ErrorIs(t, err, lock.ErrLost)
	}
	h := mustLock(t, l.Mutex("m"))
	require.NoError(t, write(h))
	local := waiting(func() (*lock.Held, error) { return l.Mutex("m").Lock(timely(t)) })
	eventually(t, func() bool { return l.Stats().Waiting == 1 })
	mustRelease(t, h)
	next := got(t, local)
	require.NoError(t, next.err)
	assert.EqualValues(t, 1, l.Stats().Turns, "the key is the same")
	refused(h)
	require.NoError(t, write(next.v))
	mustRelease(t, next.v)
	refused(next.v)
	last := mustLock(t, other.Mutex("m"))
	refused(next.v)
	require.NoError(t, write(last))
	mustRelease(t, last)
}

// While the server is frozen, no lease can be renewed and none expires. It may expire as soon as
// the server resumes.
func TestHeld_ContextEndsBeforeLeaseExpires(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	s := etcdtest.Start(t)
	dir := etcdtest.Prefix(t)
	l, _ := lockerOver(t, s.Client(t), dir, lock.WithTTL(ttl))
	other, p := lockerOver(t, s.Client(t), dir)
	h := mustLock(t, l.Mutex("m"))
	leader, err := l.Election("e").Campaign(timely(t), "me")
	require.NoError(t, err)
	next := waiting(func() (*lock.Held, error) { return other.Mutex("m").Lock(timely(t)) })
	queued(t, p.cli, dir+"locks/m/", 2)

	frozen := time.Now()
	s.Pause()
	closed(t, h.Context().Done(), "the lock's context ends")
	closed(t, leader.Context().Done(), "the leadership's context ends")
	assert.Less(t, time.Since(frozen), ttl, "no renewal was sent after the freeze")
	require.ErrorIs(t, h.Err(), lock.ErrLost)
	select {
	case <-next:
		require.Fail(t, "granted while the server was frozen")
	default:
	}
	s.Resume()
	r := got(t, next)
	require.NoError(t, r.err)
	_, err = p.store.Put(t.Context(), "x", nil, kv.WithGuard(h))
	require.ErrorIs(t, err, lock.ErrLost)
	require.ErrorIs(t, h.Release(t.Context()), lock.ErrLost)
	require.ErrorIs(t, leader.Release(t.Context()), lock.ErrLost)
	mustRelease(t, r.v)
}

func TestNew_ReturnsAllErrors(t *testing.T) {
	t.Parallel()
	l, err := lock.New(&parts{}, lock.WithTTL(time.Millisecond), lock.WithDir("a//b"))
	require.ErrorIs(t, err, lock.ErrInvalid)
	assert.Nil(t, l)
	require.ErrorContains(t, err, "lock: new: ")
	for _, want := range []string{"TTL 1ms", "empty segment", "the client lacks a part"} {
		require.ErrorContains(t, err, want)
	}
	_, err = lock.New(nil)
	require.ErrorIs(t, err, lock.ErrInvalid)
	_, err = lock.New((*parts)(nil), lock.WithTTL(0))
	require.ErrorIs(t, err, lock.ErrInvalid)
	require.ErrorContains(t, err, "no client")
	require.ErrorContains(t, err, "TTL 0s")
}

func TestLocker_CallsReturnTheErrorOfAnInvalidNamespace(t *testing.T) {
	t.Parallel()
	p := newParts(t, etcdtest.Client(t), etcdtest.Prefix(t))
	p.store = p.store.Namespace("a//b")
	l, err := lock.New(p)
	require.NoError(t, err)
	_, err = l.Mutex("m").Lock(t.Context())
	require.ErrorIs(t, err, lock.ErrInvalid)
	require.ErrorContains(t, err, "empty segment")
	_, err = l.Election("e").Campaign(t.Context(), "")
	require.ErrorIs(t, err, lock.ErrInvalid)
	require.NoError(t, l.Close())
}

func TestLocker_CloseEndsItsMutexes(t *testing.T) {
	t.Parallel()
	l, err := lock.New(newParts(t, etcdtest.Client(t), etcdtest.Prefix(t)))
	require.NoError(t, err)
	require.NoError(t, l.Close())
	_, err = l.Mutex("m").Lock(t.Context())
	assert.ErrorIs(t, err, lock.ErrClosed)
}
