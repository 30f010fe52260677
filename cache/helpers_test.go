package cache_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/kv"
)

// user is the value type of most tests.
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

// measureDelay measures how late timers fire in this process. The function that it returns says how
// much that, and the tick of a clock, may have added to a bound.
func measureDelay(tb testing.TB) func() time.Duration {
	tb.Helper()
	const beat, slack = 5 * time.Millisecond, 300 * time.Millisecond
	var worst, last atomic.Int64
	startedAt := time.Now()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				now := int64(time.Since(startedAt))
				worst.Store(max(worst.Load(), now-last.Load()))
				last.Store(now)
			case <-done:
				return
			}
		}
	}()
	tb.Cleanup(func() { close(done); <-ended })
	return func() time.Duration {
		now := int64(time.Since(startedAt))
		return slack + 2*time.Duration(max(worst.Load(), now-last.Load()))
	}
}

// values returns the contents of a replica.
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

// readerWithStore is a cache or a replica.
type readerWithStore[T any] interface {
	cache.Reader[T]
	Store() kv.Typed[T]
}

// writeA writes key "a" through a cache, or deletes it if v is "".
func writeA(tb testing.TB, c readerWithStore[string], v string) {
	tb.Helper()
	var err error
	if v == "" {
		_, err = c.Store().Delete(tb.Context(), "a")
	} else {
		_, err = c.Store().Put(tb.Context(), "a", v)
	}
	require.NoError(tb, err)
}

// fakeKV is a KV whose responses can be delayed, replaced and counted.
type fakeKV struct {
	clientv3.KV

	// Both are set before the client is used: caches ask by themselves, too.
	afterRead func(op clientv3.Op) // between the answer and its arrival
	answer    func(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error)
	calls     atomic.Int64
}

// Do is what the stores of this library call.
func (i *fakeKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	i.calls.Add(1)
	if i.answer != nil {
		return i.answer(ctx, op)
	}
	resp, err := i.KV.Do(ctx, op)
	if i.afterRead != nil {
		i.afterRead(op)
	}
	return resp, err
}

// installFakeKV installs a fakeKV in a client.
func installFakeKV(cli *clientv3.Client) *fakeKV {
	i := &fakeKV{KV: cli.KV}
	cli.KV = i
	return i
}

// isKeyRead reports whether op is the read of a key by a cache, and not of the revision.
func isKeyRead(op clientv3.Op) bool {
	if !op.IsTxn() {
		return false
	}
	_, then, _ := op.Txn()
	return len(then) == 1 && then[0].IsGet() && !then[0].IsCountOnly()
}

func isNotFound(err error) bool { return errors.Is(err, kv.ErrNotFound) }
func isClosed(err error) bool   { return errors.Is(err, cache.ErrClosed) }
