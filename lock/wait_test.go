package lock_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

func TestLocker_CloseWaitsForDo(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, _ := newLocker(t, dir)
	b, _ := newLocker(t, dir)
	for name, c := range map[string]struct {
		do   func(f func(context.Context)) error
		next func() (*lock.Held, error)
	}{
		"Do": {
			func(f func(context.Context)) error {
				return a.Mutex("m").Do(t.Context(), func(ctx context.Context, _ *lock.Held) error { f(ctx); return nil })
			},
			func() (*lock.Held, error) { return b.Mutex("m").Lock(timely(t)) },
		},
		"Run": {
			func(f func(context.Context)) error {
				return a.Election("e").Run(t.Context(), "", func(ctx context.Context, _ *lock.Leadership) error { f(ctx); return nil })
			},
			func() (*lock.Held, error) {
				leader, err := b.Election("e").Campaign(timely(t), "")
				if err != nil {
					return nil, err
				}
				return leader.Held, nil
			},
		},
	} {
		var running atomic.Bool
		entered := make(chan struct{})
		ended := waiting(func() (struct{}, error) {
			return struct{}{}, c.do(func(ctx context.Context) {
				running.Store(true)
				close(entered)
				<-ctx.Done()
				assert.ErrorIs(t, context.Cause(ctx), lock.ErrClosed)
				time.Sleep(300 * time.Millisecond) // it takes its time to stop
				running.Store(false)
			})
		})
		closed(t, entered, name)
		next := waiting(func() (*lock.Held, error) {
			h, err := c.next()
			assert.False(t, running.Load(), "%s: the next holder is beside the function", name)
			return h, err
		})
		require.NoError(t, a.Close())
		assert.False(t, running.Load(), name)
		require.ErrorIs(t, got(t, ended).err, lock.ErrClosed)
		r := got(t, next)
		require.NoError(t, r.err)
		mustRelease(t, r.v)
		a, _ = newLocker(t, dir)
	}
}

func TestMutex_LockOutlastsAnOutageWithinItsDeadline(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	// The session outlasts the outage and a slow start of the server.
	l, _ := lockerOver(t, s.Client(t, harden), "a/", lock.WithTTL(time.Minute))
	mustRelease(t, mustLock(t, l.Mutex("m")))
	s.Kill()
	const outage = 11 * time.Second // longer than any timeout of a single request
	time.AfterFunc(outage, s.Launch)
	ctx, stop := context.WithTimeout(t.Context(), 2*within)
	defer stop()
	h, err := l.Mutex("m").Lock(ctx)
	require.NoError(t, err, "the wait is bounded by ctx alone")
	mustRelease(t, h)
}

func TestMutex_LockTimeoutNamesHolder(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	a, _ := newLocker(t, dir, lock.WithOwner("a"))
	b, p := newLocker(t, dir, lock.WithOwner("b"))
	h := mustLock(t, a.Mutex("m"))
	attempt := func(l *lock.Locker) error {
		ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer stop()
		_, err := l.Mutex("m").Lock(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		return err
	}
	middle, stop := context.WithCancel(t.Context()) // of a waiter ahead of the one that times out
	other, _ := newLocker(t, dir, lock.WithOwner("c"))
	between := waiting(func() (*lock.Held, error) { return other.Mutex("m").Lock(middle) })
	queued(t, p.cli, dir+"locks/m/", 2)

	for l, want := range map[*lock.Locker]lock.LockedError{
		b: {Name: "m", Owner: "a", Token: h.Token()},
		a: {Name: "m", Owner: "a", Token: h.Token(), Local: true},
	} {
		locked, ok := errors.AsType[*lock.LockedError](attempt(l))
		require.True(t, ok)
		assert.Equal(t, want, *locked)
	}
	assert.EqualError(t, attempt(b), fmt.Sprintf(`lock: lock "m": context deadline exceeded: held by another owner: a (token %d)`, h.Token()))
	assert.EqualError(t, attempt(a), fmt.Sprintf(`lock: lock "m": context deadline exceeded: held by this process: a (token %d)`, h.Token()))
	stop()
	require.NotErrorIs(t, got(t, between).err, lock.ErrLocked, "it was not the time that ended it")
	mustRelease(t, h)
}

func TestLocker_VerbatimNameMayBeginWithSlash(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	l, p := newLocker(t, dir, lock.WithDir(""))
	h := mustLock(t, l.Mutex("/m"))
	assert.Len(t, keysUnder(t, p.cli, dir+"/m/"), 1)
	mustRelease(t, h)
	for _, invalid := range []string{"/", "//m", "/m/", "/a//b"} {
		_, err := l.Mutex(invalid).TryLock(t.Context())
		require.ErrorIs(t, err, lock.ErrInvalid, invalid)
	}
}

func TestElection_RunContinuesAfterUnauthenticated(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	etcdtest.EnableAuth(t, s, etcdtest.User{Name: "u", Password: "p", Grants: []etcdtest.Grant{etcdtest.ReadWrite("app/")}})
	root := s.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	log := &lines{}
	l, p := lockerOver(t, s.Client(t, etcdtest.As("u", "p"), harden), "app/", lock.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	ctx, stop := context.WithCancel(t.Context())
	terms := make(chan struct{}, 10)
	ended := waiting(func() (struct{}, error) {
		return struct{}{}, l.Election("e").Run(ctx, "v", func(ctx context.Context, _ *lock.Leadership) error {
			terms <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		})
	})
	next(t, terms)
	_, err := root.UserChangePassword(t.Context(), "u", "q")
	require.NoError(t, err)
	shared, err := p.leases.Shared(t.Context())
	require.NoError(t, err)
	_, err = root.Revoke(t.Context(), shared.ID())
	require.NoError(t, err)
	eventually(t, func() bool { return strings.Contains(log.String(), "campaigning failed") })
	other, _ := lockerOver(t, root, "app/")
	leader := mustLead(t, other.Election("e"), "w")
	_, err = root.UserChangePassword(t.Context(), "u", "p")
	require.NoError(t, err)
	eventually(t, func() bool { return strings.Contains(log.String(), "campaigning resumed") }, "it is in the queue again")
	mustRelease(t, leader.Held)
	next(t, terms)
	assert.Equal(t, 1, strings.Count(log.String(), "campaigning failed"))
	stop()
	require.NoError(t, got(t, ended).err)
}

func TestElection_ErrorOfASessionNamesOnePackage(t *testing.T) {
	t.Parallel()
	proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	proxy.Refuse()
	p := newParts(t, etcdtest.NewClient(t, proxy.Endpoints()), etcdtest.Prefix(t))
	l := etcdtest.Must(lock.New(p))
	t.Cleanup(func() { _ = l.Close() })
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	_, err := l.Election("e").Campaign(ctx, "v")
	require.ErrorIs(t, err, lock.ErrUnavailable)
	assert.Regexp(t, `^lock: campaign "e": etcd unavailable: context deadline exceeded: endpoints `, err.Error())
	assert.NotContains(t, err.Error(), "lease: ")
}
