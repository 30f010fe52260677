package lock_test

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

func TestLocker_ReleasedHoldIsNotWatched(t *testing.T) {
	t.Parallel()
	l, _ := newLocker(t, etcdtest.Prefix(t))
	h := mustLock(t, l.Mutex("m"))
	eventually(t, func() bool { return l.Stats().Watched == 1 })
	mustRelease(t, h)
	assert.Zero(t, l.Stats().Watched)
	assert.Zero(t, l.Stats().Names)
	mustRelease(t, mustLock(t, l.Mutex("m")))
	assert.Zero(t, l.Stats().Names)
}

func TestLocker_ReturnsErrPermission(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	etcdtest.EnableAuth(t, s, etcdtest.User{Name: "ann", Password: "pw", Grants: []etcdtest.Grant{etcdtest.ReadWrite("ours/")}})
	l, _ := lockerOver(t, s.Client(t, etcdtest.As("ann", "pw")), "ours")
	mustRelease(t, mustLock(t, l.Mutex("m")))

	l, _ = lockerOver(t, s.Client(t, etcdtest.As("ann", "pw")), "theirs")
	_, err := l.Mutex("m").Lock(timely(t))
	require.ErrorIs(t, err, lock.ErrPermission)
	_, err = l.Mutex("m").TryLock(timely(t))
	require.ErrorIs(t, err, lock.ErrPermission)
	_, err = l.Election("e").Leader(timely(t))
	require.ErrorIs(t, err, lock.ErrPermission)
	require.ErrorIs(t, l.Election("e").Run(timely(t), "x", func(context.Context, *lock.Leadership) error { return nil }), lock.ErrPermission)
	for _, err := range l.Election("e").Observe(timely(t)) {
		require.ErrorIs(t, err, lock.ErrPermission)
	}
}

// lines is a log that can be written and read concurrently.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func TestLocker_LogsLossesWithoutValues(t *testing.T) {
	t.Parallel()
	log := &lines{}
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir, lock.WithLogger(slog.New(slog.NewTextHandler(log, nil))), lock.WithOwner("a secret owner"))
	leader := mustLead(t, l.Election("e"), "a secret value")
	h := mustLock(t, l.Mutex("m"))
	_, err := p.cli.Delete(t.Context(), dir+"locks/", clientv3.WithPrefix())
	require.NoError(t, err)
	require.ErrorIs(t, h.Verify(t.Context()), lock.ErrLost)
	eventually(t, func() bool { return bytes.Contains([]byte(log.String()), []byte("lock lost")) })
	require.ErrorIs(t, h.Release(t.Context()), lock.ErrLost)
	require.NoError(t, leader.Release(t.Context()))
	assert.NotContains(t, log.String(), "secret")
}

func TestLeadership_ProclaimReturnsErrLost(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(p *parts, key string) error{
		"deleted": func(p *parts, key string) error { _, err := p.cli.Delete(t.Context(), key); return err },
		"revoked": func(p *parts, key string) error {
			_, err := p.cli.Revoke(t.Context(), leaseOf(t, p, key))
			return err
		},
		"overwritten": func(p *parts, key string) error { _, err := p.cli.Put(t.Context(), key, ""); return err },
	} {
		dir := etcdtest.Prefix(t)
		l, p := newLocker(t, dir)
		leader := mustLead(t, l.Election("e"), "a")
		require.NoError(t, harm(p, keysUnder(t, p.cli, dir+"elections/")[0]), name)
		require.ErrorIs(t, leader.Proclaim(t.Context(), "b"), lock.ErrLost, name)
		require.ErrorIs(t, leader.Err(), lock.ErrLost, name)
		require.ErrorIs(t, leader.Release(t.Context()), lock.ErrLost, name)
		queued(t, p.cli, dir+"elections/", 0)
	}
}

func TestLocker_ForgetsEndedHolds(t *testing.T) {
	t.Parallel()
	l, p := newLocker(t, etcdtest.Prefix(t))
	l.SetKeepOpen(50 * time.Millisecond)
	ended, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	mustGive(t, mustRead(t, l.RWMutex("m")))
	held := mustAcquire(t, l.Semaphore("s", 1), 1)
	_, err := l.Semaphore("s", 1).TryAcquire(t.Context())
	require.ErrorIs(t, err, lock.ErrLocked)
	_, err = l.Semaphore("s", 1).Acquire(ended)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	mustGive(t, held)
	require.NoError(t, l.Barrier("b", 1).Wait(timely(t)))
	require.ErrorIs(t, l.Barrier("b", 2).Wait(ended), context.DeadlineExceeded)
	d := l.DoubleBarrier("b", 1)
	for range 3 {
		require.NoError(t, d.Enter(timely(t)))
		require.NoError(t, d.Leave(timely(t)))
	}
	require.NoError(t, d.Enter(timely(t)))
	require.Error(t, d.Leave(ended))
	eventually(t, func() bool {
		s := l.Stats()
		return s.Names == 0 && s.Watched == 0 && s.Held == 0 && s.Waiting == 0 && p.watcher.Active() == 0
	})
	queued(t, p.cli, p.dir+"locks/", 0)
}

func TestLeadership_ProclaimEndsWithSession(t *testing.T) {
	t.Parallel()
	k, cli := newLossy(t)
	l, p := lockerOver(t, cli, etcdtest.Prefix(t))
	leader := mustLead(t, l.Election("e"), "a")
	k.mood.Store(dropRequests)
	ctx := timely(t)
	said := waiting(func() (struct{}, error) { return struct{}{}, leader.Proclaim(ctx, "b") })
	s, err := p.leases.Shared(t.Context())
	require.NoError(t, err)
	_, err = cli.Revoke(t.Context(), s.ID())
	require.NoError(t, err)
	require.Error(t, s.Verify(t.Context()))
	require.ErrorIs(t, got(t, said).err, lock.ErrLost)
	require.NoError(t, ctx.Err())
	k.mood.Store(healthy)
	require.ErrorIs(t, leader.Release(t.Context()), lock.ErrLost)
}
