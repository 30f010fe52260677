package cache_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// within bounds what a test waits for. Nothing takes that long unless it is broken.
const within = 30 * time.Second

// parts is what caches take of a client.
type parts struct {
	store   *kv.Store
	watcher *watch.Watcher
}

func (p parts) KV() *kv.Store           { return p.store }
func (p parts) Watcher() *watch.Watcher { return p.watcher }

// over makes the parts of a client below dir, whose watcher is closed when the test ends.
func over(tb testing.TB, cli *clientv3.Client, dir string) parts {
	tb.Helper()
	w := etcdtest.Must(watch.New(cli, watch.WithNamespace(dir)))
	tb.Cleanup(func() { assert.NoError(tb, w.Close()) })
	return parts{store: etcdtest.Must(kv.New(cli, kv.WithNamespace(dir))), watcher: w}
}

// shared is the parts of a client of the shared server, in a namespace of the test's own.
func shared(tb testing.TB) parts {
	tb.Helper()
	return over(tb, etcdtest.Client(tb), etcdtest.Prefix(tb))
}

// user is what most tests store.
type user struct {
	Name string
	Tags []string
}

func openReplica[T any](tb testing.TB, c cache.Client, dir string, codec kv.Codec[T], o ...cache.Option) *cache.Replica[T] {
	tb.Helper()
	r, err := cache.OpenReplica(tb.Context(), c, dir, codec, o...)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, r.Close()) })
	return r
}

func mustPut(tb testing.TB, s *kv.Store, key, value string) int64 {
	tb.Helper()
	rev, err := s.Put(tb.Context(), key, []byte(value))
	require.NoError(tb, err)
	return rev
}

func mustDelete(tb testing.TB, s *kv.Store, key string) int64 {
	tb.Helper()
	rev, err := s.Delete(tb.Context(), key)
	require.NoError(tb, err)
	return rev
}

// eventually waits for something that there is no event for.
func eventually(tb testing.TB, what string, f func() bool) {
	tb.Helper()
	require.Eventually(tb, f, within, 5*time.Millisecond, what)
}

// lateness watches how late goroutines that wait for the time are called in this process, those that keep the bounds included:
// what it returns says how much that, and the tick of a clock, may have added to a bound.
func lateness(tb testing.TB) func() time.Duration {
	tb.Helper()
	const beat, slack = 5 * time.Millisecond, 300 * time.Millisecond
	var worst, last atomic.Int64
	born := time.Now()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				now := int64(time.Since(born))
				worst.Store(max(worst.Load(), now-last.Load()))
				last.Store(now)
			case <-done:
				return
			}
		}
	}()
	tb.Cleanup(func() { close(done); <-ended })
	return func() time.Duration {
		now := int64(time.Since(born))
		return slack + 2*time.Duration(max(worst.Load(), now-last.Load()))
	}
}

// values is what a replica holds, by key.
func values(r *cache.Replica[string]) map[string]string {
	out := map[string]string{}
	for e := range r.All() {
		out[e.Key] = e.Value
	}
	return out
}

func openCache[T any](tb testing.TB, c cache.Client, dir string, codec kv.Codec[T], o ...cache.Option) *cache.Cache[T] {
	tb.Helper()
	out, err := cache.Open(tb.Context(), c, dir, codec, o...)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, out.Close()) })
	return out
}

// mine is a cache or a replica whose process has written something.
type mine[T any] interface {
	cache.Reader[T]
	Store() kv.Typed[T]
}

// storeA writes key "a" through a cache, or deletes it where v is "".
func storeA(tb testing.TB, c mine[string], v string) {
	tb.Helper()
	var err error
	if v == "" {
		_, err = c.Store().Delete(tb.Context(), "a")
	} else {
		_, err = c.Store().Put(tb.Context(), "a", v)
	}
	require.NoError(tb, err)
}

// intercepted is a KV whose answers can be held back, made up and counted.
type intercepted struct {
	clientv3.KV

	// Both are set before the client is used: caches ask by themselves, too.
	after  func(op clientv3.Op) // between the answer and its arrival
	answer func(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error)
	calls  atomic.Int64
}

// Do is what the stores of this library call.
func (i *intercepted) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	i.calls.Add(1)
	if i.answer != nil {
		return i.answer(ctx, op)
	}
	resp, err := i.KV.Do(ctx, op)
	if i.after != nil {
		i.after(op)
	}
	return resp, err
}

// intercept puts an intercepted KV into a client.
func intercept(cli *clientv3.Client) *intercepted {
	i := &intercepted{KV: cli.KV}
	cli.KV = i
	return i
}

// readsOne reports whether op is the read of a key by a cache, and not of the revision.
func readsOne(op clientv3.Op) bool {
	if !op.IsTxn() {
		return false
	}
	_, then, _ := op.Txn()
	return len(then) == 1 && then[0].IsGet() && !then[0].IsCountOnly()
}

func kvNotFound(err error) bool { return errors.Is(err, kv.ErrNotFound) }
func closed(err error) bool     { return errors.Is(err, cache.ErrClosed) }

// lockedBuffer is what a logger writes to.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
