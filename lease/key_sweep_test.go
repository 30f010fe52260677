package lease_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/lease"
)

// fakeLateKV loses transactions, and hands them over to be applied later.
type fakeLateKV struct {
	clientv3.KV

	losing atomic.Bool
	lost   chan clientv3.Txn
	puts   atomic.Int32 // lost transactions that put
}

func (l *fakeLateKV) Txn(ctx context.Context) clientv3.Txn {
	if !l.losing.Load() {
		return l.KV.Txn(ctx)
	}
	return &fakeLostTxn{l.KV.Txn(context.WithoutCancel(ctx)), l}
}

type fakeLostTxn struct {
	clientv3.Txn

	kv *fakeLateKV
}

func (l *fakeLostTxn) If(c ...clientv3.Cmp) clientv3.Txn { l.Txn = l.Txn.If(c...); return l }
func (l *fakeLostTxn) Then(o ...clientv3.Op) clientv3.Txn {
	if o[0].IsPut() {
		l.kv.puts.Add(1)
	}
	l.Txn = l.Txn.Then(o...)
	return l
}
func (l *fakeLostTxn) Else(o ...clientv3.Op) clientv3.Txn { l.Txn = l.Txn.Else(o...); return l }
func (l *fakeLostTxn) Commit() (*clientv3.TxnResponse, error) {
	select {
	case l.kv.lost <- l.Txn:
	default: // one is enough
	}
	return nil, status.Error(codes.Unavailable, "connection reset")
}

func newFakeLateKV(t *testing.T, dir string, prepare ...func(*clientv3.Config)) (*fakeLateKV, *lease.Manager) {
	t.Helper()
	cli := etcdtest.NewClient(t, etcdtest.Endpoints(), prepare...)
	net := &fakeLateKV{KV: cli.KV, lost: make(chan clientv3.Txn, 1)}
	cli.KV = net
	return net, newManager(t, cli, lease.WithNamespace(dir))
}

// keepLease opens another key, whose lease the next one will share.
func keepLease(t *testing.T, m *lease.Manager) {
	t.Helper()
	_, err := m.OpenKey(t.Context(), "other", nil)
	require.NoError(t, err)
}

// loseCreation has OpenKey give up on a transaction, which it returns.
func (l *fakeLateKV) loseCreation(t *testing.T, m *lease.Manager) clientv3.Txn {
	t.Helper()
	before := m.Stats().Keys
	l.losing.Store(true)
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	_, err := m.OpenKey(ctx, "k", []byte("late"))
	require.ErrorIs(t, err, lease.ErrUnknownOutcome)
	l.losing.Store(false)
	require.Eventually(t, func() bool { return m.Stats().Keys == before }, 10*time.Second, time.Millisecond, "it was cleaned up at once")
	return <-l.lost
}

func TestKey_SweepsLateCreation(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string][]func(*clientv3.Config){"over a plain client": nil, "over a hardened one": {parttest.Harden}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
			net, m := newFakeLateKV(t, dir, prepare...)
			keepLease(t, m)
			txn := net.loseCreation(t, m)
			r, err := txn.Commit()
			require.NoError(t, err)
			require.True(t, r.Succeeded, "it was written after that")
			require.Eventually(t, func() bool {
				r, err := direct.Get(t.Context(), dir+"k")
				return assert.NoError(t, err) && len(r.Kvs) == 0
			}, 20*time.Second, 10*time.Millisecond)
			k, err := m.OpenKey(t.Context(), "k", []byte("again"))
			require.NoError(t, err)
			require.NoError(t, k.Close())
		})
	}
}

func TestKey_LeaseOfLateCreationEndsWithItsLastUser(t *testing.T) {
	t.Parallel()
	dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
	net, m := newFakeLateKV(t, dir)
	other, err := m.OpenKey(t.Context(), "other", nil)
	require.NoError(t, err)
	txn := net.loseCreation(t, m)
	again, err := m.OpenKey(t.Context(), "another", nil)
	require.NoError(t, err)
	assert.Equal(t, 2, m.Stats().Sessions, "no further key is put on that lease")
	require.NoError(t, other.Close())
	require.Eventually(t, func() bool { return m.Stats().Sessions == 1 }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { // the session has ended; its lease does so a moment later
		_, err = txn.Commit()
		return errors.Is(err, rpctypes.ErrLeaseNotFound)
	}, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, again.Close())
	r, err := direct.Get(t.Context(), dir, clientv3.WithPrefix())
	require.NoError(t, err)
	assert.Empty(t, r.Kvs)
}

// Whoever opens the key next takes the sweep over, and has to carry on with it, however far he
// gets.
func TestKey_SweepsLateCreationAfterReopening(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]func(*testing.T, *lease.Manager){
		"in vain": func(t *testing.T, m *lease.Manager) {
			t.Helper()
			ended, stop := context.WithCancel(t.Context())
			stop()
			_, err := m.OpenKey(ended, "k", nil)
			require.ErrorIs(t, err, context.Canceled)
		},
		"and closed again": func(t *testing.T, m *lease.Manager) {
			t.Helper()
			k, err := m.OpenKey(t.Context(), "k", nil)
			require.NoError(t, err)
			require.NoError(t, k.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
			net, m := newFakeLateKV(t, dir)
			keepLease(t, m)
			txn := net.loseCreation(t, m)
			between(t, m)
			r, err := txn.Commit()
			require.NoError(t, err)
			require.True(t, r.Succeeded, "it was written after that")
			require.Eventually(t, func() bool {
				r, err := direct.Get(t.Context(), dir+"k")
				return assert.NoError(t, err) && len(r.Kvs) == 0
			}, 20*time.Second, 10*time.Millisecond)
		})
	}
}

// The first attempt is applied and its answer lost, the second one is under way for long: what the
// third one finds says nothing about the second.
func TestKey_SweepsAfterTwoAttemptsOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
	cli := etcdtest.NewClient(t, etcdtest.Endpoints())
	net := &fakeStaggeredKV{KV: cli.KV, second: make(chan clientv3.Txn, 1)}
	cli.KV = net
	m := newManager(t, cli, lease.WithNamespace(dir))
	k, err := m.OpenKey(t.Context(), "k", []byte("v"))
	require.NoError(t, err)
	require.EqualValues(t, 3, net.attempts.Load(), "else this proves nothing")
	_, shared, err := m.Acquire(t.Context()) // keeps the lease alive
	require.NoError(t, err)
	defer shared()
	require.NoError(t, k.Close())
	r, err := (<-net.second).Commit()
	require.NoError(t, err)
	require.True(t, r.Succeeded, "it was written after that")
	require.Eventually(t, func() bool {
		r, err := direct.Get(t.Context(), dir+"k")
		return assert.NoError(t, err) && len(r.Kvs) == 0
	}, 20*time.Second, 10*time.Millisecond)
}

// fakeStaggeredKV loses the answer to the first transaction, and the second transaction, which it
// hands over to be applied later.
type fakeStaggeredKV struct {
	clientv3.KV

	attempts atomic.Int32
	second   chan clientv3.Txn
}

func (s *fakeStaggeredKV) Txn(ctx context.Context) clientv3.Txn {
	switch s.attempts.Add(1) {
	case 1:
		f := &fakeLossyKV{KV: s.KV}
		f.forget.Store(true)
		return f.Txn(ctx)
	case 2:
		l := &fakeLateKV{KV: s.KV, lost: s.second}
		l.losing.Store(true)
		return l.Txn(ctx)
	}
	return s.KV.Txn(ctx)
}

func TestKey_DoesNotSweepReopenedKey(t *testing.T) {
	t.Parallel()
	dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
	net, m := newFakeLateKV(t, dir)
	txn := net.loseCreation(t, m)
	k, err := m.OpenKey(t.Context(), "k", []byte("again"))
	require.NoError(t, err)
	r, err := txn.Commit()
	require.NoError(t, err)
	assert.False(t, r.Succeeded)
	got, err := direct.Get(t.Context(), dir+"k")
	require.NoError(t, err)
	require.Len(t, got.Kvs, 1)
	first := got.Kvs[0].CreateRevision
	timer := time.NewTimer(3 * time.Second) // the second sweep would be over
	<-timer.C
	got, err = direct.Get(t.Context(), dir+"k")
	require.NoError(t, err)
	require.Len(t, got.Kvs, 1)
	assert.Equal(t, first, got.Kvs[0].CreateRevision, "it was never gone")
	require.NoError(t, k.Close())
}

func TestKey_LateDeleteLeavesNextKeyOfTheName(t *testing.T) {
	t.Parallel()
	for name, reopen := range map[string]func(*testing.T, *lease.Manager, *fakeLateKV, <-chan error) *lease.Key{
		"created after the delete was repeated": func(t *testing.T, m *lease.Manager, net *fakeLateKV, closed <-chan error) *lease.Key {
			t.Helper()
			net.losing.Store(false)
			require.NoError(t, <-closed)
			next, err := m.OpenKey(t.Context(), "k", []byte("next"))
			require.NoError(t, err)
			return next
		},
		"which has found the key": func(t *testing.T, m *lease.Manager, net *fakeLateKV, closed <-chan error) *lease.Key {
			t.Helper()
			require.ErrorIs(t, <-closed, lease.ErrUnknownOutcome)
			opened := make(chan *lease.Key)
			go func() {
				next, err := m.OpenKey(t.Context(), "k", []byte("next"))
				assert.NoError(t, err)
				opened <- next
			}()
			require.Eventually(t, func() bool { return net.puts.Load() > 0 }, 10*time.Second, time.Millisecond, "no sweep is running")
			net.losing.Store(false)
			return <-opened
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
			net, m := newFakeLateKV(t, dir)
			keepLease(t, m)
			k, err := m.OpenKey(t.Context(), "k", []byte("v"))
			require.NoError(t, err)
			net.losing.Store(true)
			closed := make(chan error, 1)
			go func() { closed <- k.Close() }()
			txn := <-net.lost
			next := reopen(t, m, net, closed)
			require.NotNil(t, next)
			assert.Equal(t, 1, m.Stats().Sessions, "else the lease alone tells the keys apart")
			before, err := direct.Get(t.Context(), dir+"k")
			require.NoError(t, err)
			require.Len(t, before.Kvs, 1)
			require.Equal(t, "next", string(before.Kvs[0].Value))
			r, err := txn.Commit()
			require.NoError(t, err)
			assert.False(t, r.Succeeded, "it deletes another key than the one that was closed")
			after, err := direct.Get(t.Context(), dir+"k")
			require.NoError(t, err)
			assert.Equal(t, before.Kvs, after.Kvs)
			require.NoError(t, next.Close())
			after, err = direct.Get(t.Context(), dir+"k")
			require.NoError(t, err)
			assert.Empty(t, after.Kvs)
		})
	}
}

// fakeStuckKV does not answer transactions while it is stuck.
type fakeStuckKV struct {
	clientv3.KV

	stuck atomic.Bool
	tries atomic.Int32
}

func (s *fakeStuckKV) Txn(ctx context.Context) clientv3.Txn {
	if !s.stuck.Load() {
		return s.KV.Txn(ctx)
	}
	return &fakeStuckTxn{kv: s, ctx: ctx}
}

type fakeStuckTxn struct {
	kv  *fakeStuckKV
	ctx context.Context
}

func (s *fakeStuckTxn) If(...clientv3.Cmp) clientv3.Txn  { return s }
func (s *fakeStuckTxn) Then(...clientv3.Op) clientv3.Txn { return s }
func (s *fakeStuckTxn) Else(...clientv3.Op) clientv3.Txn { return s }
func (s *fakeStuckTxn) Commit() (*clientv3.TxnResponse, error) {
	s.kv.tries.Add(1)
	<-s.ctx.Done()
	return nil, s.ctx.Err()
}

// fakeChangedKV changes a key before each transaction, and keeps its lease, as a third party could.
type fakeChangedKV struct {
	clientv3.KV

	key     string
	changes atomic.Int32 // before that many transactions
}

func (c *fakeChangedKV) Txn(ctx context.Context) clientv3.Txn {
	if c.changes.Add(-1) >= 0 {
		_, _ = c.Put(ctx, c.key, "changed", clientv3.WithIgnoreLease())
	}
	return c.KV.Txn(ctx)
}

func TestKey_CloseEndsWhileThirdPartyChangesKey(t *testing.T) {
	t.Parallel()
	cli, dir, direct := etcdtest.NewClient(t, etcdtest.Endpoints()), etcdtest.Prefix(t), etcdtest.Client(t)
	net := &fakeChangedKV{KV: cli.KV, key: dir + "k"}
	cli.KV = net
	m := newManager(t, cli, lease.WithNamespace(dir))
	k, err := m.OpenKey(t.Context(), "k", nil)
	require.NoError(t, err)
	net.changes.Store(8) // with one fewer, Close succeeds
	require.ErrorIs(t, k.Close(), lease.ErrUnavailable)
	require.Eventually(t, func() bool { // it is deleted in the background
		r, err := direct.Get(t.Context(), dir+"k")
		return err == nil && r.Count == 0
	}, 20*time.Second, 10*time.Millisecond)
}

func TestKey_UpdateOfClosedKeyDoesNotWaitForSweep(t *testing.T) {
	t.Parallel()
	cli := etcdtest.NewClient(t, etcdtest.Endpoints())
	net := &fakeStuckKV{KV: cli.KV}
	cli.KV = net
	m := newManager(t, cli, lease.WithNamespace(etcdtest.Prefix(t)))
	k, err := m.OpenKey(t.Context(), "k", nil)
	require.NoError(t, err)
	net.stuck.Store(true)
	require.ErrorIs(t, k.Close(), lease.ErrUnknownOutcome)
	closed := net.tries.Load()
	require.Eventually(t, func() bool { return net.tries.Load() > closed }, 20*time.Second, time.Millisecond, "no sweep is running")
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	require.ErrorIs(t, k.Update(ctx, nil), lease.ErrClosed)
	net.stuck.Store(false)
}

// An update whose answer was lost has changed the revision that the delete compares.
func TestKey_CloseDeletesAfterUpdateOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
	net, m := newFakeLateKV(t, dir)
	k, err := m.OpenKey(t.Context(), "k", []byte("v"))
	require.NoError(t, err)
	net.losing.Store(true)
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	require.ErrorIs(t, k.Update(ctx, []byte("late")), lease.ErrUnknownOutcome)
	closed := make(chan error, 1)
	go func() { closed <- k.Close() }()
	r, err := (<-net.lost).Commit()
	require.NoError(t, err)
	require.True(t, r.Succeeded)
	net.losing.Store(false)
	require.NoError(t, <-closed)
	got, err := direct.Get(t.Context(), dir+"k")
	require.NoError(t, err)
	assert.Empty(t, got.Kvs)
}

func TestKey_OwnsCreationWhoseResponseIsLost(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	cli := etcdtest.Client(t)
	net := &fakeLossyKV{KV: cli.KV}
	cli.KV = net
	m := newManager(t, cli, lease.WithNamespace(dir))
	net.forget.Store(true)
	k, err := m.OpenKey(t.Context(), "k", []byte("v"))
	require.NoError(t, err)
	assert.False(t, net.forget.Load(), "an answer was lost")
	assert.Equal(t, lease.Alive, k.State())
	require.NoError(t, k.Close())
	r, err := cli.Get(t.Context(), dir+"k")
	require.NoError(t, err)
	assert.Empty(t, r.Kvs)
}

func TestKey_RestoresValueOfFailedUpdate(t *testing.T) {
	t.Parallel()
	dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
	net, m := newFakeLateKV(t, dir)
	k, err := m.OpenKey(t.Context(), "k", []byte("old"), lease.WithKeyTTL(time.Minute))
	require.NoError(t, err)
	net.losing.Store(true)
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	require.ErrorIs(t, k.Update(ctx, []byte("new")), lease.ErrUnknownOutcome)
	assert.Equal(t, lease.Suspended, k.State())
	require.ErrorIs(t, k.Update(ctx, []byte("too late")), context.DeadlineExceeded)
	net.losing.Store(false)
	waitUntilAlive(t, k)
	r, err := direct.Get(t.Context(), dir+"k")
	require.NoError(t, err)
	require.Len(t, r.Kvs, 1)
	assert.Equal(t, "new", string(r.Kvs[0].Value), "and not what was refused before anything was sent")
	require.NoError(t, k.Close())
}

// fakeLossyKV carries out a transaction and loses the answer.
type fakeLossyKV struct {
	clientv3.KV

	forget atomic.Bool
}

func (f *fakeLossyKV) Txn(ctx context.Context) clientv3.Txn {
	return &fakeLossyTxn{f.KV.Txn(ctx), f}
}

type fakeLossyTxn struct {
	clientv3.Txn

	kv *fakeLossyKV
}

func (f *fakeLossyTxn) If(c ...clientv3.Cmp) clientv3.Txn  { f.Txn = f.Txn.If(c...); return f }
func (f *fakeLossyTxn) Then(o ...clientv3.Op) clientv3.Txn { f.Txn = f.Txn.Then(o...); return f }
func (f *fakeLossyTxn) Else(o ...clientv3.Op) clientv3.Txn { f.Txn = f.Txn.Else(o...); return f }
func (f *fakeLossyTxn) Commit() (*clientv3.TxnResponse, error) {
	r, err := f.Txn.Commit()
	if err == nil && f.kv.forget.CompareAndSwap(true, false) {
		return nil, status.Error(codes.Unavailable, "connection reset")
	}
	return r, err
}
