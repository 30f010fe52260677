package cache_test

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestReplica_HoldsStateAndFollowsChanges(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	first := mustPut(t, p.KV(), "users/ada", `{"Name":"Ada"}`)
	mustPut(t, p.KV(), "users2/eve", `{"Name":"Eve"}`)
	r := openReplica(t, p, "users", kv.JSON[user]())

	e, err := r.Get(t.Context(), "ada")
	require.NoError(t, err)
	assert.Equal(t, kv.Entry[user]{Key: "ada", Value: user{Name: "Ada"}, CreateRevision: first, ModRevision: first, Version: 1}, e)
	assert.Equal(t, 1, r.Len(), "a replica never sees what lies beside its dir")

	lease, err := p.KV().Namespace("users").Create(t.Context(), "bob", []byte(`{"Name":"Bob"}`), kv.WithTTL(time.Minute))
	require.NoError(t, err)
	require.NoError(t, r.WaitRevision(t.Context(), lease))
	e, err = r.Get(t.Context(), "bob")
	require.NoError(t, err)
	assert.NotZero(t, e.Lease)

	second := mustPut(t, p.KV(), "users/ada", `{"Name":"Ada L."}`)
	require.NoError(t, r.WaitRevision(t.Context(), second))
	e, err = r.Get(t.Context(), "ada")
	require.NoError(t, err)
	assert.Equal(t, kv.Entry[user]{Key: "ada", Value: user{Name: "Ada L."}, CreateRevision: first, ModRevision: second, Version: 2}, e)
	assert.GreaterOrEqual(t, r.Revision(), second, "others write to the cluster too")

	gone := mustDelete(t, p.KV(), "users/ada")
	require.NoError(t, r.WaitRevision(t.Context(), gone))
	_, err = r.Get(t.Context(), "ada")
	require.ErrorIs(t, err, kv.ErrNotFound)
	require.EqualError(t, err, `cache: get "users/ada": key not found`)
	assert.Equal(t, 1, r.Len())
	assert.LessOrEqual(t, r.Age(), 5*time.Second)
	require.NoError(t, r.Err())
}

func TestReader_RejectsInvalidKey(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	r := openReplica(t, parttest.New(t, count.Client(t), etcdtest.Prefix(t)), "dir", kv.String())
	_, err := r.Get(t.Context(), "")
	require.ErrorIs(t, err, cache.ErrInvalid)
	before := count.CountOnlyReads()
	_, err = r.GetLinearizable(t.Context(), "")
	require.ErrorIs(t, err, cache.ErrInvalid)
	assert.Equal(t, before, count.CountOnlyReads(), "before anything is sent")
	r.View(func(get func(string) (kv.Entry[string], bool)) {
		_, ok := get("")
		assert.False(t, ok)
	})
}

//nolint:tparallel,paralleltest // nothing is sent, which is counted after the subtests
func TestOpen_RejectsInvalidArguments(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	p := parttest.New(t, count.Client(t), etcdtest.Prefix(t))
	for _, c := range []struct {
		name string
		text string
		open func() error
	}{
		{"no client", "no client", func() error { _, err := cache.OpenReplica(t.Context(), nil, "dir", kv.String()); return err }},
		{"no codec", "no codec", func() error { _, err := cache.OpenReplica[string](t.Context(), p, "dir", nil); return err }},
		{"a dir with an empty segment", "a//b", func() error { _, err := cache.OpenReplica(t.Context(), p, "a//b", kv.String()); return err }},
		{"an option of the other kind", "WithTTL is not for a Replica", func() error {
			_, err := cache.OpenReplica(t.Context(), p, "dir", kv.String(), cache.WithTTL(time.Second))
			return err
		}},
		{"a bound that cannot be kept", "less than 2s", func() error {
			_, err := cache.OpenReplica(t.Context(), p, "dir", kv.String(), cache.WithMaxStaleness(time.Second))
			return err
		}},
		{"an option of a Replica for a Cache", "WithBadEntry is not for a Cache", func() error {
			_, err := cache.Open(t.Context(), p, "dir", kv.String(), cache.WithBadEntry(func(string, int64, error) {}))
			return err
		}},
		{"no entries and no time", "WithTTL: 0s", func() error {
			_, err := cache.Open(t.Context(), p, "dir", kv.String(), cache.WithMaxEntries(0), cache.WithTTL(0))
			require.ErrorContains(t, err, "WithMaxEntries: 0 entries", "all complaints are joined")
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.open()
			require.ErrorIs(t, err, cache.ErrInvalid)
			assert.ErrorContains(t, err, c.text)
		})
	}
	assert.Zero(t, count.Total())
}

func TestReplica_ShowsTransactionsAsOneChange(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	const keys = 5
	write := func(n int) int64 {
		ops := make([]clientv3.Op, keys)
		for i := range ops {
			ops[i] = clientv3.OpPut("dir/k"+strconv.Itoa(i), strconv.Itoa(n))
			if n%7 == 6 && i > 0 {
				ops[i] = clientv3.OpDelete("dir/k" + strconv.Itoa(i))
			}
		}
		resp, err := p.KV().Txn(t.Context()).Then(ops...).Commit()
		require.NoError(t, err)
		return resp.Header.Revision
	}
	write(0)
	r := openReplica(t, p, "dir", kv.String())
	var received []int
	var mu sync.Mutex
	r.FollowRevisions(func(_ int64, changes []cache.Change[string]) {
		mu.Lock()
		defer mu.Unlock()
		received = append(received, len(changes))
	})
	done := make(chan struct{})
	var readers sync.WaitGroup
	whole := func(m map[string]string) {
		if n, _ := strconv.Atoi(m["k0"]); n%7 == 6 {
			assert.Len(t, m, 1)
			return
		}
		assert.Len(t, m, keys)
		for _, v := range m {
			assert.Equal(t, m["k0"], v)
		}
	}
	for range 2 {
		readers.Go(func() {
			for last := 0; ; {
				select {
				case <-done:
					return
				default:
				}
				whole(values(r))
				r.View(func(get func(string) (kv.Entry[string], bool)) {
					m := map[string]string{}
					for i := range keys {
						if e, ok := get("k" + strconv.Itoa(i)); ok {
							m[e.Key] = e.Value
						}
					}
					whole(m)
				})
				// One after the other: never back in time.
				for _, key := range []string{"k0", "k1", "k4"} {
					e, err := r.Get(t.Context(), key)
					if errors.Is(err, kv.ErrNotFound) {
						continue
					}
					n, _ := strconv.Atoi(e.Value)
					assert.GreaterOrEqual(t, n, last)
					last = n
				}
			}
		})
	}
	var rev int64
	for n := range 300 {
		rev = write(n)
	}
	require.NoError(t, r.WaitRevision(t.Context(), rev))
	close(done)
	readers.Wait()
	parttest.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(received) >= 301
	}, "the last revision is reported")
	mu.Lock()
	defer mu.Unlock()
	for _, n := range received {
		assert.Equal(t, keys, n)
	}
}

func TestReplica_ViewStaysAtRevision(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", "old")
	mustPut(t, p.KV(), "dir/b", "old")
	r := openReplica(t, p, "dir", kv.String())
	r.View(func(get func(string) (kv.Entry[string], bool)) {
		mustPut(t, p.KV(), "dir/a", "new")
		mustDelete(t, p.KV(), "dir/b")
		require.NoError(t, r.WaitRevision(t.Context(), mustPut(t, p.KV(), "dir/c", "new")))
		for range 2 {
			a, _ := get("a")
			assert.Equal(t, "old", a.Value)
			b, _ := get("b")
			assert.Equal(t, "old", b.Value)
			_, ok := get("c")
			assert.False(t, ok)
			r.View(func(get func(string) (kv.Entry[string], bool)) {
				a, _ := get("a")
				assert.Equal(t, "new", a.Value)
				_, ok := get("b")
				assert.False(t, ok)
			})
		}
		assert.Equal(t, map[string]string{"a": "new", "c": "new"}, values(r))
	})
}

func TestReplica_UndecodableValueIsReported(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/bad", "{")
	mustPut(t, p.KV(), "dir/good", `{"Name":"Ada"}`)
	var mu sync.Mutex
	var reported []string
	r := openReplica(t, p, "dir", kv.JSON[user](), cache.WithBadEntry(func(key string, rev int64, err error) {
		mu.Lock()
		defer mu.Unlock()
		assert.Positive(t, rev)
		assert.ErrorIs(t, err, kv.ErrDecode)
		reported = append(reported, key)
	}))
	_, err := r.Get(t.Context(), "bad")
	require.ErrorIs(t, err, kv.ErrDecode)
	require.NotErrorIs(t, err, kv.ErrNotFound)
	assert.Equal(t, 1, r.Len())
	assert.Equal(t, 1, r.Stats().Bad)

	var changes []cache.Change[user]
	r.Follow(func(c cache.Change[user]) {
		mu.Lock()
		defer mu.Unlock()
		changes = append(changes, c)
	})
	mustPut(t, p.KV(), "dir/good", "no JSON")
	require.NoError(t, r.WaitRevision(t.Context(), mustPut(t, p.KV(), "dir/bad", `{"Name":"Bob"}`)))
	e, err := r.Get(t.Context(), "bad")
	require.NoError(t, err)
	assert.Equal(t, "Bob", e.Value.Name)
	parttest.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(changes) == 3 }, "three changes")
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, []string{"bad", "good"}, reported)
	assert.Equal(t, "Ada", changes[0].New.Value.Name)
	assert.Zero(t, changes[1].New.ModRevision, "a follower sees that there is no value any more")
	assert.Equal(t, "Ada", changes[1].Old.Value.Name)
	assert.Zero(t, changes[2].Old.ModRevision)
	assert.Equal(t, uint64(2), r.Stats().BadEntries)
	assert.Equal(t, 1, r.Stats().Bad)
}

func TestReplica_LogsDecodeErrorWithoutValue(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", "{secret")
	mustPut(t, p.KV(), "dir/b", `"secret"`)
	var text etcdtest.Log
	log := slog.New(slog.NewTextHandler(&text, nil))
	r := openReplica(t, p, "dir", kv.JSON[user](), cache.WithLogger(log))
	c := openCache(t, p, "dir", kv.JSON[user](), cache.WithLogger(log))
	for _, key := range []string{"a", "b"} {
		for _, from := range []cache.Reader[user]{r, c} {
			_, err := from.Get(t.Context(), key)
			require.ErrorIs(t, err, kv.ErrDecode)
			assert.NotContains(t, err.Error(), "secret")
		}
	}
	parttest.Eventually(t, func() bool { return strings.Count(text.String(), "level=WARN") == 4 }, "four warnings")
	assert.NotContains(t, text.String(), "secret")
	assert.Contains(t, text.String(), "dir=dir key=a ")
	assert.Contains(t, text.String(), "syntax error at byte 2")
}

func TestWithBadEntry_PanicIsRecovered(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", "{")
	r := openReplica(t, p, "dir", kv.JSON[user](), cache.WithBadEntry(func(string, int64, error) { panic("boom") }))
	mustPut(t, p.KV(), "dir/a", "[")
	require.NoError(t, r.WaitRevision(t.Context(), mustPut(t, p.KV(), "dir/b", `{"Name":"Bob"}`)))
	e, err := r.Get(t.Context(), "b")
	require.NoError(t, err)
	assert.Equal(t, "Bob", e.Value.Name)
	assert.Zero(t, r.Stats().Restarts)
}

// fakePanickingCodec is a codec that panics.
type fakePanickingCodec struct{}

func (fakePanickingCodec) Encode(_, v string) ([]byte, error)    { return []byte(v), nil }
func (fakePanickingCodec) Decode(string, []byte) (string, error) { panic("boom") }

func TestReplica_CodecPanicIsDecodeError(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", "x")
	r := openReplica(t, p, "dir", kv.Codec[string](fakePanickingCodec{}))
	_, err := r.Get(t.Context(), "a")
	require.ErrorIs(t, err, kv.ErrDecode)
}

func TestReader_AppendToBytesIsSafe(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", "12345")
	r := openReplica(t, p, "dir", kv.Bytes(), cache.WithReadOnlyCheck())
	e, err := r.Get(t.Context(), "a")
	require.NoError(t, err)
	_ = append(e.Value, "67"...)
	again, err := r.Get(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, "12345", string(again.Value))

	e.Value[0] = 'X'
	assert.PanicsWithValue(t, `cache: the value of "a" was changed by a reader: values of a cache are shared and read-only`, func() {
		_, _ = r.Get(t.Context(), "a")
	})
	assert.Panics(t, func() {
		for range r.All() {
		}
	})
}

func TestReplica_FollowReportsStateThenChanges(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", "1")
	r := openReplica(t, p, "dir", kv.String())
	got := make(chan cache.Change[string], 16)
	stop := r.Follow(func(c cache.Change[string]) { got <- c })
	next := func() cache.Change[string] {
		select {
		case c := <-got:
			return c
		case <-time.NewTimer(parttest.Timeout).C:
			require.Fail(t, "no change came")
			return cache.Change[string]{}
		}
	}
	c := next()
	assert.Equal(t, "a", c.Old.Key)
	assert.Zero(t, c.Old.ModRevision)
	assert.Equal(t, "1", c.New.Value)
	mustPut(t, p.KV(), "dir/a", "2")
	c = next()
	assert.Equal(t, "1", c.Old.Value)
	assert.Equal(t, "2", c.New.Value)
	mustDelete(t, p.KV(), "dir/a")
	c = next()
	assert.Equal(t, "2", c.Old.Value)
	assert.Equal(t, kv.Entry[string]{Key: "a"}, c.New)
	stop()
	stop()
	require.NoError(t, r.WaitRevision(t.Context(), mustPut(t, p.KV(), "dir/b", "1")))
	assert.Empty(t, got)
}

func TestReplica_SlowFollowerGetsMergedChanges(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	r := openReplica(t, p, "dir", kv.String())
	release := make(chan struct{})
	state := map[string]string{}
	calls := 0
	synced := make(chan struct{})
	r.Follow(func(c cache.Change[string]) {
		<-release
		calls++
		if old, ok := state[c.New.Key]; ok {
			assert.Equal(t, old, c.Old.Value)
			assert.NotZero(t, c.Old.ModRevision)
		} else {
			assert.Zero(t, c.Old.ModRevision)
		}
		delete(state, c.New.Key)
		if c.New.ModRevision != 0 {
			state[c.New.Key] = c.New.Value
		}
		if c.New.Value == "last" {
			close(synced)
		}
	})
	const keys, rounds = 100, 60
	var rev int64
	for n := range rounds {
		ops := make([]kv.Op, keys)
		for i := range ops {
			ops[i] = kv.OpPut("dir/"+strconv.Itoa(i), []byte(strconv.Itoa(n)))
			if (n+i)%10 == 0 {
				ops[i] = kv.OpDelete("dir/" + strconv.Itoa(i))
			}
		}
		_, err := p.KV().Batch(t.Context(), ops...)
		require.NoError(t, err)
	}
	rev = mustPut(t, p.KV(), "dir/zz", "last")
	require.NoError(t, r.WaitRevision(t.Context(), rev), "the replica goes on")
	close(release)
	<-synced
	assert.Equal(t, values(r), state)
	assert.Less(t, calls, keys*rounds, "changes were folded")
}

func TestReplica_FollowerContinuesAfterPanic(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	r := openReplica(t, p, "dir", kv.String())
	got := make(chan string, 4)
	r.Follow(func(c cache.Change[string]) {
		got <- c.New.Value
		panic("boom")
	})
	mustPut(t, p.KV(), "dir/a", "1")
	mustPut(t, p.KV(), "dir/a", "2")
	assert.Equal(t, "1", <-got)
	assert.Equal(t, "2", <-got)
}

func TestReplica_ReturnsErrClosedAfterClose(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", "1")
	r := openReplica(t, p, "dir", kv.String())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { assert.NoError(t, r.Close()) })
	}
	wg.Wait()
	_, err := r.Get(t.Context(), "a")
	require.ErrorIs(t, err, cache.ErrClosed)
	_, err = r.GetLinearizable(t.Context(), "a")
	require.ErrorIs(t, err, cache.ErrClosed)
	require.ErrorIs(t, r.WaitRevision(t.Context(), r.Revision()+100), cache.ErrClosed)
	assert.Equal(t, map[string]string{"a": "1"}, values(r), "the last state can still be looked at")
	r.Follow(func(cache.Change[string]) { assert.Fail(t, "called after Close") })()
	_, err = r.Store().Put(t.Context(), "a", "2")
	require.NoError(t, err, "the store goes on")
	assert.Zero(t, p.Watcher().Active())
}

func TestReplica_SharesServerWatch(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	for range 5 {
		openReplica(t, p, "dir", kv.String())
	}
	assert.Equal(t, 1, p.Watcher().Stats().ServerWatches)
}

func TestReplica_GetLinearizableSeesAcknowledgedWrites(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	other := parttest.New(t, etcdtest.Client(t), etcdtest.Prefix(t))
	r := openReplica(t, p, "dir", kv.String())
	for i := range 50 {
		mustPut(t, p.KV(), "dir/a", strconv.Itoa(i))
		e, err := r.GetLinearizable(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, strconv.Itoa(i), e.Value)
		mustPut(t, other.KV(), "noise", "x") // the quiet prefix of a busy cluster
	}
	mustDelete(t, p.KV(), "dir/a")
	_, err := r.GetLinearizable(t.Context(), "a")
	require.ErrorIs(t, err, kv.ErrNotFound)
}

func TestReplica_GetLinearizableSharesOneRead(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	p := parttest.New(t, count.Client(t), etcdtest.Prefix(t))
	mustPut(t, p.KV(), "dir/a", "1")
	r := openReplica(t, p, "dir", kv.String())
	count.Reset()
	const readers, times = 64, 20
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for range times {
				_, err := r.GetLinearizable(t.Context(), "a")
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Less(t, count.Total(), readers*times/4, "%v", count.Counts())
}

func TestOpen_RepeatedOpenAndCloseLeaksNothing(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", "1")
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 20 {
				ctx, stop := context.WithTimeout(t.Context(), parttest.Timeout)
				r, err := cache.OpenReplica(ctx, p, "dir", kv.String())
				stop()
				if assert.NoError(t, err) {
					_, err = r.Get(t.Context(), "a")
					assert.NoError(t, err, "the context of Open bounds Open alone")
					assert.NoError(t, r.Close())
				}
			}
		})
	}
	wg.Wait()
	assert.Zero(t, p.Watcher().Active())
}
