package lock_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

// within bounds every wait of a test. Only a defect takes that long.
const within = 30 * time.Second

// parts are the parts of a client, as the root package makes them.
type parts struct {
	cli     *clientv3.Client
	dir     string
	store   *kv.Store
	watcher *watch.Watcher
	leases  *lease.Manager
}

func (p *parts) KV() *kv.Store           { return p.store }
func (p *parts) Watcher() *watch.Watcher { return p.watcher }
func (p *parts) Leases() *lease.Manager  { return p.leases }

// newParts makes the parts of a client below dir, closed when the test ends.
func newParts(tb testing.TB, cli *clientv3.Client, dir string) *parts {
	tb.Helper()
	p := &parts{
		cli: cli, dir: dir, store: etcdtest.Must(kv.New(cli, kv.WithNamespace(dir))), watcher: etcdtest.Must(watch.New(cli, watch.WithNamespace(dir))),
		leases: etcdtest.Must(lease.New(cli, lease.WithNamespace(dir))),
	}
	tb.Cleanup(func() {
		assert.NoError(tb, p.watcher.Close())
		_ = p.leases.Close() // where a server is away it says so
	})
	return p
}

// newLocker returns a locker below dir over a client of its own, like another process.
func newLocker(tb testing.TB, dir string, o ...lock.Option) (*lock.Locker, *parts) {
	tb.Helper()
	return lockerOver(tb, etcdtest.Client(tb), dir, o...)
}

// harden applies the client settings of etcdkit.Open.
func harden(cfg *clientv3.Config) {
	if err := wire.Harden(cfg); err != nil {
		panic(err)
	}
}

// lockerOver returns a locker over cli. Its session is open.
func lockerOver(tb testing.TB, cli *clientv3.Client, dir string, o ...lock.Option) (*lock.Locker, *parts) {
	tb.Helper()
	p := newParts(tb, cli, dir)
	_, err := p.leases.Shared(tb.Context())
	require.NoError(tb, err)
	l := etcdtest.Must(lock.New(p, o...))
	l.SetCheckInterval(time.Hour) // grants come from watches
	tb.Cleanup(func() { _ = l.Close() })
	return l, p
}

// timely returns a context that ends when the test has failed.
func timely(tb testing.TB) context.Context {
	tb.Helper()
	ctx, stop := context.WithTimeout(tb.Context(), within)
	tb.Cleanup(stop)
	return ctx
}

func mustLock(tb testing.TB, m *lock.Mutex) *lock.Held {
	tb.Helper()
	h, err := m.Lock(timely(tb))
	require.NoError(tb, err)
	return h
}

func mustRelease(tb testing.TB, h *lock.Held) {
	tb.Helper()
	require.NoError(tb, h.Release(timely(tb)))
}

// keysUnder returns the absolute keys that begin with prefix.
func keysUnder(tb testing.TB, cli *clientv3.Client, prefix string) []string {
	tb.Helper()
	resp, err := cli.Get(timely(tb), prefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	require.NoError(tb, err)
	keys := make([]string, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

// eventually waits until f holds.
func eventually(tb testing.TB, f func() bool, message ...any) {
	tb.Helper()
	require.Eventually(tb, f, within, 5*time.Millisecond, message...)
}

// queued waits until n keys are in the queue of a prefix.
func queued(tb testing.TB, cli *clientv3.Client, prefix string, n int) {
	tb.Helper()
	eventually(tb, func() bool { return len(keysUnder(tb, cli, prefix)) == n }, "%d keys below %s", n, prefix)
}

// closed waits for a channel.
func closed(tb testing.TB, c <-chan struct{}, what string) {
	tb.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-c:
	case <-timer.C:
		require.Fail(tb, "in vain", what)
	}
}

// theirSession returns a session of client/v3.
func theirSession(tb testing.TB, cli *clientv3.Client) *concurrency.Session {
	tb.Helper()
	s, err := concurrency.NewSession(cli, concurrency.WithTTL(15))
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// waiting starts f and returns its result on a channel.
func waiting[T any](f func() (T, error)) <-chan result[T] {
	out := make(chan result[T], 1)
	go func() {
		v, err := f()
		out <- result[T]{v, err}
	}()
	return out
}

type result[T any] struct {
	v   T
	err error
}

// next receives from a channel.
func next[T any](tb testing.TB, c <-chan T) (v T) {
	tb.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case v = <-c:
	case <-timer.C:
		require.Fail(tb, "nothing has come")
	}
	return v
}

// got receives a result.
func got[T any](tb testing.TB, c <-chan result[T]) result[T] {
	tb.Helper()
	return next(tb, c)
}
