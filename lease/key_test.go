package lease_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
)

// bench is a manager below a dir and a look at what is there.
type bench struct {
	*lease.Manager

	t   *testing.T
	cli *clientv3.Client // of somebody else
	dir string
}

func newBench(t *testing.T) bench {
	t.Helper()
	dir := etcdtest.Prefix(t)
	m := manage(t, etcdtest.Client(t), lease.WithNamespace(dir))
	return bench{m, t, etcdtest.Client(t), dir}
}

// value is what the key "k" holds and on which lease, "" when it is absent.
func (b bench) value() (string, clientv3.LeaseID) {
	b.t.Helper()
	r, err := b.cli.Get(b.t.Context(), b.dir+"k")
	require.NoError(b.t, err)
	if len(r.Kvs) == 0 {
		return "", 0
	}
	return string(r.Kvs[0].Value), clientv3.LeaseID(r.Kvs[0].Lease)
}

// becomes waits until the key holds a value on a lease, or is absent for "".
func (b bench) becomes(want string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		got, on := b.value()
		return got == want && (want == "" || on != 0)
	}, 8*time.Second, 5*time.Millisecond) // no renewal would tell so soon
}

func (b bench) open(value string, o ...lease.KeyOption) *lease.Key {
	b.t.Helper()
	k, err := b.OpenKey(b.t.Context(), "k", []byte(value), o...)
	require.NoError(b.t, err)
	return k
}

// usurp lets a rival have the key that a keeper holds: the rival is quicker once.
func (b bench) usurp() *lease.Key {
	b.t.Helper()
	rival := manage(b.t, etcdtest.Client(b.t), lease.WithNamespace(b.dir))
	for {
		_, err := b.cli.Delete(b.t.Context(), b.dir+"k")
		require.NoError(b.t, err)
		if theirs, err := rival.OpenKey(b.t.Context(), "k", []byte("theirs")); err == nil {
			return theirs
		}
	}
}

func alive(t *testing.T, k *lease.Key) {
	t.Helper()
	require.Eventually(t, func() bool { return k.State() == lease.Alive }, 20*time.Second, time.Millisecond)
}

func TestAKeyIsThereUntilItIsClosed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.open("one")
	got, on := b.value()
	assert.Equal(t, "one", got)
	s, err := b.Shared(t.Context())
	require.NoError(t, err)
	assert.Equal(t, s.ID(), on, "on the shared lease")
	assert.Equal(t, lease.Alive, k.State())

	require.NoError(t, k.Update(t.Context(), []byte("two")))
	got, on = b.value()
	assert.Equal(t, "two", got)
	assert.Equal(t, s.ID(), on, "Update keeps the lease")
	require.NoError(t, k.Context().Err())

	require.NoError(t, k.Close())
	require.NoError(t, k.Close())
	got, _ = b.value()
	assert.Empty(t, got)
	require.ErrorIs(t, context.Cause(k.Context()), lease.ErrClosed)
	assert.Equal(t, lease.Lost, k.State())
	require.ErrorIs(t, k.Update(t.Context(), nil), lease.ErrClosed)
	require.NoError(t, s.Err())
	assert.Zero(t, b.Stats().Keys)
}

func TestAKeyOfSomebodyElse(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := b.cli.Put(t.Context(), b.dir+"k", "theirs")
	require.NoError(t, err)
	_, err = b.OpenKey(t.Context(), "k", []byte("ours"))
	require.ErrorIs(t, err, kv.ErrExists)
	require.ErrorIs(t, err, lease.ErrExists)
	got, _ := b.value()
	assert.Equal(t, "theirs", got)
	assert.Zero(t, b.Stats().Keys)

	k := b.open("ours", lease.WithTakeover())
	got, _ = b.value()
	assert.Equal(t, "ours", got)
	_, err = b.OpenKey(t.Context(), "k", nil, lease.WithTakeover())
	require.ErrorIs(t, err, lease.ErrExists, "this process has it")

	// Somebody else takes it in turn, when it is closed it is not ours to delete.
	_, err = b.cli.Delete(t.Context(), b.dir+"k")
	require.NoError(t, err)
	b.becomes("ours")
	require.NoError(t, k.Close())
	k = b.open("again")
	require.NoError(t, k.Close())
}

func TestCloseDeletesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	other := manage(t, etcdtest.Client(t), lease.WithNamespace(b.dir))
	k := b.open("first")
	usurper, err := other.OpenKey(t.Context(), "k", []byte("second"), lease.WithTakeover())
	require.NoError(t, err)
	require.NoError(t, k.Close())
	got, _ := b.value()
	if got != "second" { // k has restored it before it was closed, and is restored over
		b.becomes("second")
	}
	require.NoError(t, usurper.Close())
}

func TestAKeyComesBack(t *testing.T) {
	t.Parallel()
	tests := map[string]func(t *testing.T, b bench, k *lease.Key){
		"after it was deleted": func(t *testing.T, b bench, _ *lease.Key) {
			t.Helper()
			_, err := b.cli.Delete(t.Context(), b.dir+"k")
			require.NoError(t, err)
		},
		"after its value was overwritten": func(t *testing.T, b bench, _ *lease.Key) {
			t.Helper()
			_, err := b.cli.Put(t.Context(), b.dir+"k", "from an operator")
			require.NoError(t, err)
		},
		"after it was detached from its lease": func(t *testing.T, b bench, _ *lease.Key) {
			t.Helper()
			_, err := b.cli.Put(t.Context(), b.dir+"k", "here")
			require.NoError(t, err)
		},
		"after its lease was revoked": func(t *testing.T, b bench, _ *lease.Key) {
			t.Helper()
			_, on := b.value()
			_, err := b.cli.Revoke(t.Context(), on)
			require.NoError(t, err)
		},
		"after all of it again and again": func(t *testing.T, b bench, k *lease.Key) {
			t.Helper()
			for range 5 {
				_, err := b.cli.Delete(t.Context(), b.dir+"k")
				require.NoError(t, err)
				b.becomes("here")
				alive(t, k)
			}
		},
	}
	for name, disturb := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			k := b.open("here", lease.WithKeyTTL(30*time.Second))
			disturb(t, b, k)
			b.becomes("here")
			alive(t, k)
			require.NoError(t, k.Update(t.Context(), []byte("there")))
			b.becomes("there")
			require.NoError(t, k.Close())
			got, _ := b.value()
			assert.Empty(t, got)
		})
	}
}

func TestAKeyWaitsForWhoeverHasItNow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.open("ours")
	theirs := b.usurp()
	require.Eventually(t, func() bool { return k.State() == lease.Suspended }, 10*time.Second, time.Millisecond)
	err := k.Update(t.Context(), []byte("ours, new"))
	require.ErrorIs(t, err, lease.ErrExists)
	got, _ := b.value()
	assert.Equal(t, "theirs", got)
	require.NoError(t, theirs.Close())
	b.becomes("ours, new")
	alive(t, k)
}

func TestAKeyComesBackAfterAnOutage(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	m := manage(t, srv.Client(t), lease.WithSessionTTL(2*time.Second))
	k, err := m.OpenKey(t.Context(), "k", []byte("here"))
	require.NoError(t, err)
	s, err := m.Shared(t.Context())
	require.NoError(t, err)
	srv.Stop()
	<-s.Context().Done()
	assert.Equal(t, lease.Suspended, k.State())
	require.NoError(t, k.Context().Err(), "it will come back")
	srv.Launch()
	srv.WaitReady()
	alive(t, k)
	next, err := m.Shared(t.Context())
	require.NoError(t, err)
	r, err := srv.Client(t).Get(t.Context(), "k")
	require.NoError(t, err)
	require.Len(t, r.Kvs, 1)
	assert.EqualValues(t, next.ID(), r.Kvs[0].Lease)
	require.NoError(t, m.Close())
	r, err = srv.Client(t).Get(t.Context(), "k")
	require.NoError(t, err)
	assert.Empty(t, r.Kvs)
}

func TestKeysCostOneTransactionEach(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	dir := etcdtest.Prefix(t)
	m := manage(t, count.Client(t, hardened), lease.WithNamespace(dir))
	_, err := m.Shared(t.Context())
	require.NoError(t, err)
	count.Reset()
	k, err := m.OpenKey(t.Context(), "k", []byte("1"))
	require.NoError(t, err)
	require.NoError(t, k.Update(t.Context(), []byte("2")))
	require.NoError(t, k.Update(t.Context(), []byte("2")))
	require.NoError(t, k.Close())
	assert.Equal(t, 3, count.Count("KV/Txn"))
	assert.Zero(t, count.Count("KV/Range"))
	assert.Zero(t, count.Count("Lease/LeaseGrant"))
}

func TestAKeyLooksOnlyAtWhatOthersDo(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
	m := manage(t, count.Client(t, hardened), lease.WithNamespace(dir))
	k, err := m.OpenKey(t.Context(), "k", []byte("0"))
	require.NoError(t, err)
	for i := range 3 {
		r, err := direct.Delete(t.Context(), dir+"k") // the keeper sees it: it has a watch that is open
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			got, err := direct.Get(t.Context(), dir+"k")
			require.NoError(t, err)
			return len(got.Kvs) > 0 && got.Kvs[0].CreateRevision > r.Header.Revision
		}, 10*time.Second, time.Millisecond)
		alive(t, k)
		for n := range 5 {
			require.NoError(t, k.Update(t.Context(), []byte{byte('1' + i), byte('0' + n)}))
		}
	}
	timer := time.NewTimer(time.Second) // there would be time for another look
	<-timer.C
	require.NoError(t, k.Close())
	assert.Equal(t, 3, count.Count("KV/Range"), "one for each deletion, none for our own changes")
}

// lateKV loses transactions, and hands them over to be applied later.
type lateKV struct {
	clientv3.KV

	losing atomic.Bool
	lost   chan clientv3.Txn
}

func (l *lateKV) Txn(ctx context.Context) clientv3.Txn {
	if !l.losing.Load() {
		return l.KV.Txn(ctx)
	}
	return &lostTxn{l.KV.Txn(context.WithoutCancel(ctx)), l}
}

type lostTxn struct {
	clientv3.Txn

	kv *lateKV
}

func (l *lostTxn) If(c ...clientv3.Cmp) clientv3.Txn  { l.Txn = l.Txn.If(c...); return l }
func (l *lostTxn) Then(o ...clientv3.Op) clientv3.Txn { l.Txn = l.Txn.Then(o...); return l }
func (l *lostTxn) Else(o ...clientv3.Op) clientv3.Txn { l.Txn = l.Txn.Else(o...); return l }
func (l *lostTxn) Commit() (*clientv3.TxnResponse, error) {
	select {
	case l.kv.lost <- l.Txn:
	default: // one is enough
	}
	return nil, status.Error(codes.Unavailable, "connection reset")
}

func newLateKV(t *testing.T, dir string) (*lateKV, *lease.Manager) {
	t.Helper()
	cli := etcdtest.Client(t)
	net := &lateKV{KV: cli.KV, lost: make(chan clientv3.Txn, 1)}
	cli.KV = net
	return net, manage(t, cli, lease.WithNamespace(dir))
}

// loseCreation has OpenKey give up on a transaction, which it returns.
func (l *lateKV) loseCreation(t *testing.T, m *lease.Manager) clientv3.Txn {
	t.Helper()
	l.losing.Store(true)
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	_, err := m.OpenKey(ctx, "k", []byte("late"))
	require.ErrorIs(t, err, lease.ErrUnknownOutcome)
	l.losing.Store(false)
	require.Eventually(t, func() bool { return m.Stats().Keys == 0 }, 10*time.Second, time.Millisecond, "it was cleaned up at once")
	return <-l.lost
}

func TestAKeyThatIsWrittenLateIsSweptAway(t *testing.T) {
	t.Parallel()
	dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
	net, m := newLateKV(t, dir)
	m.SweepAfter(400*time.Millisecond, 500*time.Millisecond)
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
}

func TestAKeyThatIsOpenAgainIsNotSweptAway(t *testing.T) {
	t.Parallel()
	dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
	net, m := newLateKV(t, dir)
	m.SweepAfter(500*time.Millisecond, 600*time.Millisecond)
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
	timer := time.NewTimer(time.Second) // both sweeps would be over
	<-timer.C
	got, err = direct.Get(t.Context(), dir+"k")
	require.NoError(t, err)
	require.Len(t, got.Kvs, 1)
	assert.Equal(t, first, got.Kvs[0].CreateRevision, "it was never gone")
	require.NoError(t, k.Close())
}

func TestACreationWhoseAnswerIsLostIsOurs(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	cli := etcdtest.Client(t)
	net := &forgetfulKV{KV: cli.KV}
	cli.KV = net
	m := manage(t, cli, lease.WithNamespace(dir))
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

// forgetfulKV carries out a transaction and loses the answer.
type forgetfulKV struct {
	clientv3.KV

	forget atomic.Bool
}

func (f *forgetfulKV) Txn(ctx context.Context) clientv3.Txn {
	return &forgottenTxn{f.KV.Txn(ctx), f}
}

type forgottenTxn struct {
	clientv3.Txn

	kv *forgetfulKV
}

func (f *forgottenTxn) If(c ...clientv3.Cmp) clientv3.Txn  { f.Txn = f.Txn.If(c...); return f }
func (f *forgottenTxn) Then(o ...clientv3.Op) clientv3.Txn { f.Txn = f.Txn.Then(o...); return f }
func (f *forgottenTxn) Else(o ...clientv3.Op) clientv3.Txn { f.Txn = f.Txn.Else(o...); return f }
func (f *forgottenTxn) Commit() (*clientv3.TxnResponse, error) {
	r, err := f.Txn.Commit()
	if err == nil && f.kv.forget.CompareAndSwap(true, false) {
		return nil, status.Error(codes.Unavailable, "connection reset")
	}
	return r, err
}

func TestClosingAKeyThatIsTheirsNowLeavesIt(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.open("ours")
	theirs := b.usurp()
	require.Eventually(t, func() bool { return k.State() == lease.Suspended }, 10*time.Second, time.Millisecond)
	require.NoError(t, k.Close())
	got, _ := b.value()
	assert.Equal(t, "theirs", got)
	require.NoError(t, theirs.Close())
}

func TestBadKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, key := range []string{"", ".etcdkit/x", string(make([]byte, 5000))} {
		_, err := b.OpenKey(t.Context(), key, nil)
		require.ErrorIs(t, err, lease.ErrInvalid)
	}
	_, err := b.OpenKey(t.Context(), "k", make([]byte, 2<<20))
	require.ErrorIs(t, err, lease.ErrTooLarge)
	_, err = b.OpenKey(t.Context(), "k", nil, lease.WithKeyTTL(-1))
	require.ErrorIs(t, err, lease.ErrInvalid)
	_, err = b.OpenKey(nil, "k", nil) //nolint:staticcheck // which is what is tested
	require.ErrorIs(t, err, lease.ErrInvalid)
	ended, stop := context.WithCancel(t.Context())
	stop()
	_, err = b.OpenKey(ended, "k", nil)
	require.ErrorIs(t, err, context.Canceled)
	assert.Zero(t, b.Stats().Keys)
	k := b.open("")
	require.ErrorIs(t, k.Update(t.Context(), make([]byte, 2<<20)), lease.ErrTooLarge)
	require.ErrorIs(t, k.Update(nil, nil), lease.ErrInvalid) //nolint:staticcheck // which is what is tested
	require.ErrorIs(t, k.Update(ended, []byte("x")), context.Canceled)
}

func TestStormOfKeysAndSessions(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			for n := range 50 {
				if n%10 == 0 {
					s, err := b.OpenSession(t.Context())
					if assert.NoError(t, err) {
						assert.NoError(t, s.Close())
					}
				}
				k, err := b.OpenKey(t.Context(), string(rune('a'+i)), []byte("v"))
				if !assert.NoError(t, err) {
					return
				}
				assert.Equal(t, lease.Alive, k.State())
				assert.NoError(t, k.Close())
			}
		})
	}
	wg.Wait()
	r, err := b.cli.Get(t.Context(), b.dir, clientv3.WithPrefix(), clientv3.WithCountOnly())
	require.NoError(t, err)
	assert.Zero(t, r.Count)
	assert.Equal(t, 1, b.Stats().Sessions, "the shared one")
	assert.Zero(t, b.Stats().Keys)
}
