package kv_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// bench is a store in a namespace of its own, with all that a test looks at it with.
type bench struct {
	*kv.Store

	dir  string                       // the namespace
	cli  *clientv3.Client             // below the store, counted
	rpcs *etcdtest.RPCCounter         // of cli
	raw  *clientv3.Client             // another client, without a namespace, not counted
	open func(...kv.Option) *kv.Store // a further store over cli in the same namespace
}

func newBench(tb testing.TB, opts ...kv.Option) bench {
	tb.Helper()
	rpcs := etcdtest.Counter(tb)
	return benchOver(tb, rpcs, rpcs.Client(tb), etcdtest.Client(tb), opts...)
}

// privateBench returns a bench on a private server.
func privateBench(tb testing.TB, server *etcdtest.Server, opts ...kv.Option) bench {
	tb.Helper()
	rpcs := etcdtest.Counter(tb)
	return benchOver(tb, rpcs, server.Client(tb, rpcs.Option), server.Client(tb), opts...)
}

func benchOver(tb testing.TB, rpcs *etcdtest.RPCCounter, cli, raw *clientv3.Client, opts ...kv.Option) bench {
	tb.Helper()
	dir := etcdtest.Prefix(tb)
	open := func(opts ...kv.Option) *kv.Store {
		return etcdtest.Must(kv.New(cli, append([]kv.Option{kv.WithNamespace(dir)}, opts...)...))
	}
	return bench{Store: open(opts...), dir: dir, cli: cli, rpcs: rpcs, raw: raw, open: open}
}

// costs checks which RPCs f makes: methods and numbers, as in "KV/Put", 1.
func (b bench) costs(tb testing.TB, want map[string]int, f func()) {
	tb.Helper()
	b.rpcs.Reset()
	f()
	assert.Equal(tb, want, b.rpcs.Counts(), "RPCs")
}

// rpc is n calls of one method.
func rpc(method string, n int) map[string]int { return map[string]int{method: n} }

// none is no RPC.
func none() map[string]int { return map[string]int{} }

// refused checks that f was refused before anything was sent: its error matches all of conditions.
func (b bench) refused(tb testing.TB, f func() error, conditions ...error) {
	tb.Helper()
	b.costs(tb, none(), func() {
		err := f()
		for _, c := range conditions {
			require.ErrorIs(tb, err, c)
		}
		assert.True(tb, errs.NotApplied(err), "%v: nothing was changed", err)
	})
}

// put writes a key from outside, and returns the revision.
func (b bench) put(tb testing.TB, key, value string, opts ...clientv3.OpOption) int64 {
	tb.Helper()
	r, err := b.raw.Put(tb.Context(), b.dir+key, value, opts...)
	require.NoError(tb, err)
	return r.Header.GetRevision()
}

// remove deletes a key from outside.
func (b bench) remove(tb testing.TB, key string) {
	tb.Helper()
	_, err := b.raw.Delete(tb.Context(), b.dir+key)
	require.NoError(tb, err)
}

// value is what etcd has under a key, and "<none>" when it has nothing.
func (b bench) value(tb testing.TB, key string) string {
	tb.Helper()
	r, err := b.raw.Get(tb.Context(), b.dir+key)
	require.NoError(tb, err)
	if len(r.Kvs) == 0 {
		return "<none>"
	}
	return string(r.Kvs[0].GetValue())
}

// lease grants a lease from outside.
func (b bench) lease(tb testing.TB) clientv3.LeaseID {
	tb.Helper()
	r, err := b.raw.Grant(tb.Context(), 60)
	require.NoError(tb, err)
	return r.ID
}

// leaseOf is the lease that etcd has a key attached to.
func (b bench) leaseOf(tb testing.TB, key string) clientv3.LeaseID {
	tb.Helper()
	r, err := b.raw.Get(tb.Context(), b.dir+key)
	require.NoError(tb, err)
	require.Len(tb, r.Kvs, 1, "key %q", key)
	return clientv3.LeaseID(r.Kvs[0].GetLease())
}

func TestGet_ReturnsRevisionsAndVersion(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lease := b.lease(t)
	created := b.put(t, "users/42", "one")
	changed := b.put(t, "users/42", "two", clientv3.WithLease(lease))

	want := kv.Entry[[]byte]{
		Key: "users/42", Value: []byte("two"), CreateRevision: created, ModRevision: changed, Version: 2, Lease: lease,
	}
	for name, get := range map[string]func() (kv.Entry[[]byte], error){
		"get":       func() (kv.Entry[[]byte], error) { return b.Get(t.Context(), "users/42") },
		"get stale": func() (kv.Entry[[]byte], error) { return b.GetStale(t.Context(), "users/42") },
		"get as of": func() (kv.Entry[[]byte], error) { return b.GetAsOf(t.Context(), "users/42", changed) },
	} {
		b.costs(t, rpc("KV/Range", 1), func() {
			got, err := get()
			require.NoError(t, err, name)
			assert.Equal(t, want, got, name)
		})
	}
	past, err := b.GetAsOf(t.Context(), "users/42", created)
	require.NoError(t, err)
	assert.Equal(t, kv.Entry[[]byte]{Key: "users/42", Value: []byte("one"), CreateRevision: created, ModRevision: created, Version: 1}, past)
}

func TestGet_AbsentKeyReturnsErrNotFound(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	before := b.put(t, "other", "x")

	_, err := b.Get(t.Context(), "users/42")
	require.ErrorIs(t, err, kv.ErrNotFound)
	require.EqualError(t, err, `kv: get "`+b.dir+`users/42": key not found`)
	_, err = b.GetStale(t.Context(), "users/42")
	require.ErrorIs(t, err, kv.ErrNotFound)
	b.put(t, "users/42", "later")
	_, err = b.GetAsOf(t.Context(), "users/42", before)
	require.ErrorIs(t, err, kv.ErrNotFound, "it was not there yet")
}

func TestGetAsOf_RejectsCompactedAndFutureRevisions(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	b := privateBench(t, server)
	old := b.put(t, "k", "one")
	now := b.put(t, "k", "two")
	server.Compact(now)

	_, err := b.GetAsOf(t.Context(), "k", old)
	require.ErrorIs(t, err, kv.ErrCompacted)
	_, err = b.GetAsOf(t.Context(), "k", now+1000)
	require.ErrorIs(t, err, kv.ErrInvalid, "a revision that is yet to come")
	require.NotErrorIs(t, err, kv.ErrCompacted)
	e, err := b.GetAsOf(t.Context(), "k", now)
	require.NoError(t, err)
	assert.Equal(t, "two", string(e.Value))
}

func TestExists_FetchesNoValue(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "x")
	b.put(t, "k2", "x")
	for key, want := range map[string]bool{"k": true, "k2": true, "k3": false, "k/": false} {
		b.costs(t, rpc("KV/Range", 1), func() {
			got, err := b.Exists(t.Context(), key)
			require.NoError(t, err)
			assert.Equal(t, want, got, key)
		})
	}
}

func TestCount_StopsAtPrefix(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, key := range []string{"a/1", "a/2", "a/b/3", "a0", "ab/4", "a", "a/\xff", "a/\xff\xff"} {
		b.put(t, key, "x")
	}
	for prefix, want := range map[string]int64{"a/": 5, "ab/": 1, "a/b/": 1, "none/": 0} {
		b.costs(t, rpc("KV/Range", 1), func() {
			n, err := b.Count(t.Context(), prefix)
			require.NoError(t, err)
			assert.Equal(t, want, n, prefix)
		})
	}
	b.costs(t, rpc("KV/Txn", 1), func() { // around the hidden keys
		n, err := b.Count(t.Context(), "")
		require.NoError(t, err)
		assert.EqualValues(t, 8, n)
	})
}

func TestStore_WithoutNamespaceSeesEverything(t *testing.T) {
	t.Parallel()
	b := privateBench(t, etcdtest.Start(t))
	all := etcdtest.Must(kv.New(b.cli))
	for _, key := range []string{"\x00", "a", "z/z", "\xff\xff"} {
		_, err := all.Put(t.Context(), key, nil)
		require.NoError(t, err)
	}
	n, err := all.Count(t.Context(), "")
	require.NoError(t, err)
	assert.EqualValues(t, 4, n)
	assert.Equal(t, [][]string{{"\x00", "a", "z/z"}, {"\xff\xff"}}, readPages(t, all, "", 3))
}

// Keys are bytes: nothing is cleaned, decoded or escaped.
func TestStore_TakesKeysLiterally(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, key := range map[string]string{
		"a path upwards":           "../x",
		"a path in and out":        "a/../../b",
		"a slash":                  "/",
		"slashes":                  "//",
		"a leading slash":          "/users/1",
		"a NUL byte":               "\x00",
		"a NUL byte inside":        "a\x00b",
		"the highest byte":         "\xff",
		"many of them":             "\xff\xff\xff",
		"what is not UTF-8":        "\xc3\x28",
		"3 KB":                     strings.Repeat("k", 3000),
		"a space":                  " ",
		"nearly a hidden key":      ".etcdkit",
		"a hidden key further in":  "a/.etcdkit/x",
		"the name of an option":    "*",
		"percent signs":            "%2e%2e%2f",
		"the namespace once again": b.dir,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rev, err := b.Put(t.Context(), key, []byte(name))
			require.NoError(t, err)
			assert.Equal(t, name, b.value(t, key))
			e, err := b.Get(t.Context(), key)
			require.NoError(t, err)
			assert.Equal(t, kv.Entry[[]byte]{Key: key, Value: []byte(name), CreateRevision: rev, ModRevision: rev, Version: 1}, e)
			there, err := b.Exists(t.Context(), key)
			require.NoError(t, err)
			assert.True(t, there)
			_, err = b.Replace(t.Context(), key, []byte("2"), rev)
			require.NoError(t, err)
			_, err = b.Update(t.Context(), key, func(cur kv.Entry[[]byte]) ([]byte, error) {
				assert.Equal(t, key, cur.Key)
				return append(cur.Value, '3'), nil
			})
			require.NoError(t, err)
			assert.Equal(t, "23", b.value(t, key))
			gone, err := b.Delete(t.Context(), key)
			require.NoError(t, err)
			assert.NotZero(t, gone)
			assert.Equal(t, "<none>", b.value(t, key))
		})
	}
}

func TestStore_DoesNotSeeNeighboringNamespace(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	app, app2 := b.Namespace("app"), b.Namespace("app2")
	_, err := app.Put(t.Context(), "k", []byte("mine"))
	require.NoError(t, err)
	for _, key := range []string{"k", "secret", "other"} {
		_, err = app2.Put(t.Context(), key, []byte("theirs"))
		require.NoError(t, err)
	}

	n, err := app.Count(t.Context(), "")
	require.NoError(t, err)
	assert.EqualValues(t, 1, n)
	p, err := app.Page(t.Context(), "", 10, "")
	require.NoError(t, err)
	assert.Len(t, p.Entries, 1)
	_, err = app.Get(t.Context(), "2/secret")
	require.ErrorIs(t, err, kv.ErrNotFound)
	deleted, _, err := app.DeletePrefix(t.Context(), "")
	require.NoError(t, err)
	assert.EqualValues(t, 1, deleted)
	n, err = app2.Count(t.Context(), "")
	require.NoError(t, err)
	assert.EqualValues(t, 3, n)
}

func TestStore_NamespacesNest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	inner := b.Namespace("a").Namespace("b/").Namespace("").Namespace("c")
	_, err := inner.Put(t.Context(), "k", []byte("deep"))
	require.NoError(t, err)

	assert.Equal(t, "deep", b.value(t, "a/b/c/k"))
	e, err := b.Get(t.Context(), "a/b/c/k")
	require.NoError(t, err)
	assert.Equal(t, "a/b/c/k", e.Key)
	e, err = inner.Get(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, "k", e.Key)
	_, err = inner.Namespace("//").Namespace("fine").Get(t.Context(), "k")
	require.ErrorIs(t, err, kv.ErrInvalid, "what is wrong with a dir is not forgotten further in")
}

func TestStore_SeveralStoresOfOneClient(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	users, jobs := etcdtest.Must(kv.New(b.cli, kv.WithNamespace(b.dir+"users"))), etcdtest.Must(kv.New(b.cli, kv.WithNamespace(b.dir+"jobs/")))
	for _, s := range []*kv.Store{users, jobs} {
		_, err := s.Create(t.Context(), "1", []byte("x"))
		require.NoError(t, err)
	}
	n, err := b.Count(t.Context(), "")
	require.NoError(t, err)
	assert.EqualValues(t, 2, n)
	_, _, err = users.DeletePrefix(t.Context(), "")
	require.NoError(t, err)
	assert.Equal(t, "x", b.value(t, "jobs/1"))
}

func TestStats_CountsCalls(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	inner := b.Namespace("inner")
	_, err := b.Put(t.Context(), "k", nil)
	require.NoError(t, err)
	_, err = inner.Get(t.Context(), "k")
	require.ErrorIs(t, err, kv.ErrNotFound)
	_, err = b.Get(t.Context(), "")
	require.ErrorIs(t, err, kv.ErrInvalid)

	assert.Equal(t, kv.Stats{Calls: 2}, b.Stats())
	assert.Equal(t, b.Stats(), inner.Stats(), "shared")
	assert.Zero(t, b.open().Stats(), "another store's")
}

func TestNew_UsesCustomKVUnchanged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	seen := &fakeCountingKV{KV: b.cli.KV}
	b.cli.KV = seen
	s := b.open()
	_, err := s.Put(t.Context(), "k", []byte("v"))
	require.NoError(t, err)
	_, err = s.Get(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, 2, seen.ops)
}

// fakeCountingKV counts what goes through it.
type fakeCountingKV struct {
	clientv3.KV

	ops int
}

func (w *fakeCountingKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	w.ops++
	return w.KV.Do(ctx, op)
}

var errNoMore = errors.New("the user has gone home")

// everyCall is each call of a store that takes a context, by its name.
func everyCall(b bench) map[string]func(ctx context.Context) error {
	identity := func(cur kv.Entry[[]byte]) ([]byte, error) { return cur.Value, nil }
	return map[string]func(ctx context.Context) error{
		"Get":              func(ctx context.Context) error { _, err := b.Get(ctx, "k"); return err },
		"GetStale":         func(ctx context.Context) error { _, err := b.GetStale(ctx, "k"); return err },
		"GetAsOf":          func(ctx context.Context) error { _, err := b.GetAsOf(ctx, "k", 1); return err },
		"Exists":           func(ctx context.Context) error { _, err := b.Exists(ctx, "k"); return err },
		"Count":            func(ctx context.Context) error { _, err := b.Count(ctx, ""); return err },
		"Page":             func(ctx context.Context) error { _, err := b.Page(ctx, "", 1, ""); return err },
		"Put":              func(ctx context.Context) error { _, err := b.Put(ctx, "k", nil); return err },
		"Put WithTTL":      func(ctx context.Context) error { _, err := b.Put(ctx, "k", nil, kv.WithTTL(5e9)); return err },
		"Put WithOnce":     func(ctx context.Context) error { _, err := b.Put(ctx, "k", nil, kv.WithOnce()); return err },
		"Create":           func(ctx context.Context) error { _, err := b.Create(ctx, "k", nil); return err },
		"Replace":          func(ctx context.Context) error { _, err := b.Replace(ctx, "k", nil, 1); return err },
		"CompareAndSwap":   func(ctx context.Context) error { _, err := b.CompareAndSwap(ctx, "k", nil, nil); return err },
		"Delete":           func(ctx context.Context) error { _, err := b.Delete(ctx, "k"); return err },
		"Delete WithOnce":  func(ctx context.Context) error { _, err := b.Delete(ctx, "k", kv.WithOnce()); return err },
		"DeleteAt":         func(ctx context.Context) error { _, err := b.DeleteAt(ctx, "k", 1); return err },
		"DeletePrefix":     func(ctx context.Context) error { _, _, err := b.DeletePrefix(ctx, "k/"); return err },
		"CompareAndDelete": func(ctx context.Context) error { _, err := b.CompareAndDelete(ctx, "k", nil); return err },
		"Update":           func(ctx context.Context) error { _, err := b.Update(ctx, "k", identity); return err },
		"Update WithOnce": func(ctx context.Context) error {
			_, err := b.Update(ctx, "k", identity, kv.WithOnce(), kv.WithUpsert())
			return err
		},
		"Batch": func(ctx context.Context) error { _, err := b.Batch(ctx, kv.OpPut("k", nil)); return err },
		"Txn": func(ctx context.Context) error {
			_, err := b.Txn(ctx).Then(clientv3.OpPut("k", "")).Commit()
			return err
		},
		"Checkpoint.Load": func(ctx context.Context) error { _, err := kv.NewCheckpoint(b.Store, "k").Load(ctx); return err },
		"Checkpoint.Save": func(ctx context.Context) error { return kv.NewCheckpoint(b.Store, "k").Save(ctx, 1) },
	}
}

func TestStore_EndedContextSendsNothing(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	ctx, end := context.WithCancelCause(t.Context())
	end(errNoMore)
	for name, call := range everyCall(b) { //nolint:paralleltest // as above
		t.Run(name, func(t *testing.T) {
			b.refused(t, func() error { return call(ctx) }, context.Canceled, errNoMore)
		})
	}
}

func TestStore_ClosedClientSendsNothing(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	require.NoError(t, b.cli.Close())
	for name, call := range everyCall(b) { //nolint:paralleltest // as above
		t.Run(name, func(t *testing.T) {
			b.refused(t, func() error { return call(t.Context()) }, errs.Closed)
		})
	}
}

func TestStore_InvalidStoreRejectsEveryCall(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	for name, s := range map[string]*kv.Store{ //nolint:paralleltest // as above
		"a dir of a nested": b.Namespace("\x00"),
	} {
		broken := b
		broken.Store = s
		for method, call := range everyCall(broken) {
			t.Run(name+" "+method, func(t *testing.T) {
				b.refused(t, func() error { return call(t.Context()) }, kv.ErrInvalid)
			})
		}
		assert.Zero(t, s.Stats(), name)
	}
}

func TestNew_ReturnsAllErrors(t *testing.T) {
	t.Parallel()
	s, err := kv.New(nil, kv.WithNamespace("a//b"), kv.WithRetry(kv.RetryPolicy{MaxAttempts: -7}), kv.WithLimits(kv.Limits{TxnOps: -1}), kv.WithTimeouts(0, -1))
	assert.Nil(t, s)
	require.ErrorIs(t, err, kv.ErrInvalid)
	for _, part := range []string{"a//b", "-7", "limit", "timeout", "no client"} {
		assert.ErrorContains(t, err, part)
	}
}
