package lease_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
)

// keyFixture is a manager below a dir and a look at what is there.
type keyFixture struct {
	*lease.Manager

	t   *testing.T
	cli *clientv3.Client // of somebody else
	dir string
}

func newKeyFixture(t *testing.T) keyFixture {
	t.Helper()
	dir := etcdtest.Prefix(t)
	m := newManager(t, etcdtest.Client(t), lease.WithNamespace(dir))
	return keyFixture{m, t, etcdtest.Client(t), dir}
}

// value is what the key "k" holds and on which lease, "" when it is absent.
func (b keyFixture) value() (string, clientv3.LeaseID) {
	b.t.Helper()
	r, err := b.cli.Get(b.t.Context(), b.dir+"k")
	require.NoError(b.t, err)
	if len(r.Kvs) == 0 {
		return "", 0
	}
	return string(r.Kvs[0].Value), clientv3.LeaseID(r.Kvs[0].Lease)
}

// waitForValue waits until the key holds a value on a lease, or is absent for "".
func (b keyFixture) waitForValue(want string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		got, on := b.value()
		return got == want && (want == "" || on != 0)
	}, 8*time.Second, 5*time.Millisecond) // no renewal would tell so soon
}

func (b keyFixture) open(value string, o ...lease.KeyOption) *lease.Key {
	b.t.Helper()
	k, err := b.OpenKey(b.t.Context(), "k", []byte(value), o...)
	require.NoError(b.t, err)
	return k
}

// letRivalCreate lets a rival have the key that a keeper holds: the rival is quicker once.
func (b keyFixture) letRivalCreate() *lease.Key {
	b.t.Helper()
	rival := newManager(b.t, etcdtest.Client(b.t), lease.WithNamespace(b.dir))
	for {
		_, err := b.cli.Delete(b.t.Context(), b.dir+"k")
		require.NoError(b.t, err)
		if theirs, err := rival.OpenKey(b.t.Context(), "k", []byte("theirs")); err == nil {
			return theirs
		}
	}
}

func waitUntilAlive(t *testing.T, k *lease.Key) {
	t.Helper()
	require.Eventually(t, func() bool { return k.State() == lease.Alive }, 20*time.Second, time.Millisecond)
}

func TestKey_ExistsUntilClosed(t *testing.T) {
	t.Parallel()
	b := newKeyFixture(t)
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

func TestManager_OpenKeyReturnsErrExistsForForeignKey(t *testing.T) {
	t.Parallel()
	b := newKeyFixture(t)
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
	b.waitForValue("ours")
	require.NoError(t, k.Close())
	k = b.open("again")
	require.NoError(t, k.Close())
}

// managerWithoutWatcher returns a manager that does not see what happens to its keys.
func managerWithoutWatcher(t *testing.T, dir string) *lease.Manager {
	t.Helper()
	cli := etcdtest.Client(t)
	own := cli.Watcher
	cli.Watcher = nil
	t.Cleanup(func() { cli.Watcher = own }) // which the client closes
	return newManager(t, cli, lease.WithNamespace(dir))
}

func TestKey_CloseDeletesOnlyItsOwnKey(t *testing.T) {
	t.Parallel()
	b := newKeyFixture(t)
	// The key will not be restored.
	k, err := managerWithoutWatcher(t, b.dir).OpenKey(t.Context(), "k", []byte("first"))
	require.NoError(t, err)
	theirs, err := managerWithoutWatcher(t, b.dir).OpenKey(t.Context(), "k", []byte("second"), lease.WithTakeover())
	require.NoError(t, err)
	require.NoError(t, k.Close())
	got, _ := b.value()
	assert.Equal(t, "second", got, "it is on their lease")
	require.NoError(t, theirs.Close())
	got, _ = b.value()
	assert.Empty(t, got)
}

func TestKey_RestoresKey(t *testing.T) {
	t.Parallel()
	tests := map[string]func(t *testing.T, b keyFixture, k *lease.Key){
		"after it was deleted": func(t *testing.T, b keyFixture, _ *lease.Key) {
			t.Helper()
			_, err := b.cli.Delete(t.Context(), b.dir+"k")
			require.NoError(t, err)
		},
		"after its value was overwritten": func(t *testing.T, b keyFixture, _ *lease.Key) {
			t.Helper()
			_, err := b.cli.Put(t.Context(), b.dir+"k", "from an operator")
			require.NoError(t, err)
		},
		"after it was detached from its lease": func(t *testing.T, b keyFixture, _ *lease.Key) {
			t.Helper()
			_, err := b.cli.Put(t.Context(), b.dir+"k", "here")
			require.NoError(t, err)
		},
		"after its lease was revoked": func(t *testing.T, b keyFixture, _ *lease.Key) {
			t.Helper()
			_, on := b.value()
			_, err := b.cli.Revoke(t.Context(), on)
			require.NoError(t, err)
		},
		"after all of it again and again": func(t *testing.T, b keyFixture, k *lease.Key) {
			t.Helper()
			for range 5 {
				_, err := b.cli.Delete(t.Context(), b.dir+"k")
				require.NoError(t, err)
				b.waitForValue("here")
				waitUntilAlive(t, k)
			}
		},
	}
	for name, disturb := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newKeyFixture(t)
			k := b.open("here", lease.WithKeyTTL(30*time.Second))
			disturb(t, b, k)
			b.waitForValue("here")
			waitUntilAlive(t, k)
			require.NoError(t, k.Update(t.Context(), []byte("there")))
			b.waitForValue("there")
			require.NoError(t, k.Close())
			got, _ := b.value()
			assert.Empty(t, got)
		})
	}
}

func TestKey_WaitsUntilForeignKeyIsDeleted(t *testing.T) {
	t.Parallel()
	b := newKeyFixture(t)
	k := b.open("ours")
	theirs := b.letRivalCreate()
	require.Eventually(t, func() bool { return k.State() == lease.Suspended }, 10*time.Second, time.Millisecond)
	err := k.Update(t.Context(), []byte("ours, new"))
	require.ErrorIs(t, err, lease.ErrExists)
	got, _ := b.value()
	assert.Equal(t, "theirs", got)
	require.NoError(t, theirs.Close())
	b.waitForValue("ours, new")
	waitUntilAlive(t, k)
}

func TestKey_RestoresKeyAfterOutage(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	m := newManager(t, srv.Client(t), lease.WithSessionTTL(2*time.Second))
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
	waitUntilAlive(t, k)
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

func TestKey_IsAliveAfterDataLoss(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	m := newManager(t, srv.Client(t), lease.WithSessionTTL(2*time.Second))
	direct := srv.Client(t)
	for range 100 { // revisions that the new history will not reach
		_, err := direct.Put(t.Context(), "other", "")
		require.NoError(t, err)
	}
	k, err := m.OpenKey(t.Context(), "k", []byte("here"))
	require.NoError(t, err)
	_, err = direct.Delete(t.Context(), "k") // so that the watch has something to tell
	require.NoError(t, err)
	waitUntilAlive(t, k)
	srv.Wipe()
	srv.WaitReady()
	require.Eventually(t, func() bool {
		got, err := direct.Get(t.Context(), "k")
		return err == nil && len(got.Kvs) == 1
	}, 30*time.Second, 10*time.Millisecond)
	waitUntilAlive(t, k)
	assert.Never(t, func() bool { return k.State() != lease.Alive }, 3*time.Second, time.Millisecond, "it was read again every 2 s")
}

func TestManager_PutsAtMost256KeysOnOneLease(t *testing.T) {
	t.Parallel()
	b := newKeyFixture(t)
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			_, err := b.OpenKey(t.Context(), strconv.Itoa(i), nil, lease.WithKeyTTL(33*time.Second))
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	r, err := b.cli.Get(t.Context(), b.dir, clientv3.WithPrefix())
	require.NoError(t, err)
	require.Len(t, r.Kvs, 300)
	carried := map[int64]int{}
	for _, kv := range r.Kvs {
		carried[kv.Lease]++
	}
	require.Len(t, carried, 2)
	for id, n := range carried {
		assert.LessOrEqual(t, n, 256)
		info, err := b.Describe(t.Context(), clientv3.LeaseID(id))
		require.NoError(t, err)
		assert.Equal(t, 33*time.Second, info.Granted)
		assert.Len(t, info.Keys, n)
	}
	assert.Equal(t, 2, b.Stats().Sessions)
}

func TestKey_OperationsCostOneTransactionEach(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	dir := etcdtest.Prefix(t)
	m := newManager(t, count.Client(t, parttest.Harden), lease.WithNamespace(dir))
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

func TestKey_RereadsOnlyAfterForeignChanges(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
	m := newManager(t, count.Client(t, parttest.Harden), lease.WithNamespace(dir))
	k, err := m.OpenKey(t.Context(), "k", []byte("0"))
	require.NoError(t, err)
	for i := range 3 {
		// The open watch of the key reports it.
		r, err := direct.Delete(t.Context(), dir+"k")
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			got, err := direct.Get(t.Context(), dir+"k")
			require.NoError(t, err)
			return len(got.Kvs) > 0 && got.Kvs[0].CreateRevision > r.Header.Revision
		}, 10*time.Second, time.Millisecond)
		waitUntilAlive(t, k)
		for n := range 5 {
			require.NoError(t, k.Update(t.Context(), []byte{byte('1' + i), byte('0' + n)}))
		}
	}
	timer := time.NewTimer(time.Second) // there would be time for another look
	<-timer.C
	require.NoError(t, k.Close())
	assert.Equal(t, 3, count.Count("KV/Range"), "one for each deletion, none for our own changes")
}

func TestKey_CloseLeavesForeignKey(t *testing.T) {
	t.Parallel()
	b := newKeyFixture(t)
	k := b.open("ours")
	theirs := b.letRivalCreate()
	require.Eventually(t, func() bool { return k.State() == lease.Suspended }, 10*time.Second, time.Millisecond)
	before, err := b.cli.Get(t.Context(), b.dir+"k")
	require.NoError(t, err)
	require.NoError(t, k.Close())
	after, err := b.cli.Get(t.Context(), b.dir+"k")
	require.NoError(t, err)
	assert.Equal(t, before.Kvs, after.Kvs, "they did not have to put it back either")
	require.NoError(t, theirs.Close())
}

func TestManager_OpenKeyValidatesArguments(t *testing.T) {
	t.Parallel()
	b := newKeyFixture(t)
	for _, key := range []string{"", ".etcdkit/x", string(make([]byte, 5000))} {
		_, err := b.OpenKey(t.Context(), key, nil)
		require.ErrorIs(t, err, lease.ErrInvalid)
	}
	_, err := b.OpenKey(t.Context(), "k", make([]byte, 2<<20))
	require.ErrorIs(t, err, lease.ErrTooLarge)
	_, err = b.OpenKey(t.Context(), "k", nil, lease.WithKeyTTL(-1))
	require.ErrorIs(t, err, lease.ErrInvalid)
	ended, stop := context.WithCancel(t.Context())
	stop()
	_, err = b.OpenKey(ended, "k", nil)
	require.ErrorIs(t, err, context.Canceled)
	assert.Zero(t, b.Stats().Keys)
	k := b.open("")
	require.ErrorIs(t, k.Update(t.Context(), make([]byte, 2<<20)), lease.ErrTooLarge)
	require.ErrorIs(t, k.Update(ended, []byte("x")), context.Canceled)
}

func TestManager_OpensAndClosesKeysAndSessionsConcurrently(t *testing.T) {
	t.Parallel()
	b := newKeyFixture(t)
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
