package kv_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// invalid checks that each call is refused as invalid before anything is sent, and without a panic.
func invalid(t *testing.T, b bench, calls map[string]func() error) {
	t.Helper()
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("panic: %v", p)
				}
			}()
			b.refused(t, call, kv.ErrInvalid)
		})
	}
}

func TestStore_RejectsEmptyKey(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	typed := kv.NewTyped(b.Store, "users", kv.String())
	ctx := t.Context()
	for where, s := range map[string]*kv.Store{"in a namespace": b.Store, "without one": etcdtest.Must(kv.New(b.cli))} {
		invalid(t, b, map[string]func() error{
			where + " get":                func() error { _, err := s.Get(ctx, ""); return err },
			where + " get stale":          func() error { _, err := s.GetStale(ctx, ""); return err },
			where + " get as of":          func() error { _, err := s.GetAsOf(ctx, "", 1); return err },
			where + " exists":             func() error { _, err := s.Exists(ctx, ""); return err },
			where + " put":                func() error { _, err := s.Put(ctx, "", nil); return err },
			where + " put, ttl":           func() error { _, err := s.Put(ctx, "", nil, kv.WithTTL(time.Minute)); return err },
			where + " put, once":          func() error { _, err := s.Put(ctx, "", nil, kv.WithOnce()); return err },
			where + " create":             func() error { _, err := s.Create(ctx, "", nil); return err },
			where + " replace":            func() error { _, err := s.Replace(ctx, "", nil, 1); return err },
			where + " compare and swap":   func() error { _, err := s.CompareAndSwap(ctx, "", nil, nil); return err },
			where + " delete":             func() error { _, err := s.Delete(ctx, ""); return err },
			where + " delete at":          func() error { _, err := s.DeleteAt(ctx, "", 1); return err },
			where + " compare and delete": func() error { _, err := s.CompareAndDelete(ctx, "", nil); return err },
			where + " update":             func() error { _, err := s.Update(ctx, "", increment); return err },
			where + " batch":              func() error { _, err := s.Batch(ctx, kv.OpDelete("")); return err },
			where + " checkpoint":         func() error { return kv.NewCheckpoint(s, "").Save(ctx, 1) },
		})
	}
	invalid(t, b, map[string]func() error{
		"typed get": func() error { _, err := typed.Get(ctx, ""); return err },
		"typed put": func() error { _, err := typed.Put(ctx, "", "x"); return err },
	})
}

func TestStore_RejectsInvalidRevision(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	b.put(t, "k", "x")
	for _, rev := range []int64{0, -1, math.MinInt64} {
		invalid(t, b, map[string]func() error{
			"get as of":  func() error { _, err := b.GetAsOf(ctx, "k", rev); return err },
			"replace":    func() error { _, err := b.Replace(ctx, "k", nil, rev); return err },
			"delete at":  func() error { _, err := b.DeleteAt(ctx, "k", rev); return err },
			"typed":      func() error { _, err := kv.NewTyped(b.Store, "", kv.Bytes()).GetAsOf(ctx, "k", rev); return err },
			"checkpoint": func() error { return kv.NewCheckpoint(b.Store, "k").Save(ctx, min(rev, -1)) },
		})
	}
	_, err := b.GetAsOf(ctx, "k", math.MaxInt64)
	require.ErrorIs(t, err, kv.ErrInvalid, "it is yet to come")
	_, err = b.Replace(ctx, "k", nil, math.MaxInt64)
	require.ErrorIs(t, err, kv.ErrConflict)
}

func TestStore_RejectsPrefixWithoutSlash(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	calls := map[string]func() error{
		"count":         func() error { _, err := b.Count(ctx, "app"); return err },
		"page":          func() error { _, err := b.Page(ctx, "app", 1, ""); return err },
		"delete prefix": func() error { _, _, err := b.DeletePrefix(ctx, "app"); return err },
	}
	invalid(t, b, calls)
	for name, call := range calls {
		assert.ErrorContains(t, call(), `did you mean "app/"`, name)
	}
	assert.NotContains(t, calls["count"]().Error(), "WithPartialPrefix", "Count takes no options")
	assert.NotContains(t, calls["page"]().Error(), "WithPartialPrefix", "Page takes no options")
}

func TestStore_RejectsEmptyPrefixWithoutNamespace(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	all := etcdtest.Must(kv.New(b.cli))
	invalid(t, b, map[string]func() error{
		"delete prefix": func() error { _, _, err := all.DeletePrefix(t.Context(), ""); return err },
	})
}

func TestStore_RejectsInvalidDir(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	for name, dir := range map[string]string{"slashes": "//", "an empty segment": "a//b", "a NUL byte": "a\x00b", "a slash": "/"} {
		invalid(t, b, map[string]func() error{
			name + ", option": func() error { _, err := kv.New(b.cli, kv.WithNamespace(dir)); return err },
			name + ", nested": func() error { _, err := b.Namespace(dir).Put(t.Context(), "k", nil); return err },
			name + ", typed": func() error {
				_, err := kv.NewTyped(b.Store, dir, kv.String()).Put(t.Context(), "k", "")
				return err
			},
		})
	}
}

func TestStore_RejectsConflictingOptions(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	put := func(o ...kv.PutOption) func() error {
		return func() error { _, err := b.Put(t.Context(), "k", nil, o...); return err }
	}
	invalid(t, b, map[string]func() error{
		"a TTL and a lease":       put(kv.WithTTL(time.Minute), kv.WithLease(7)),
		"a TTL and the same":      put(kv.WithTTL(time.Minute), kv.WithSameLease()),
		"a lease and the same":    put(kv.WithLease(7), kv.WithSameLease()),
		"a lease that is none":    put(kv.WithLease(clientv3.NoLease)),
		"a guard that is none":    put(kv.WithGuard(nil)),
		"one guard of several":    put(kv.WithGuard(kv.Guard{}, nil)),
		"a delete with no guard":  func() error { _, err := b.Delete(t.Context(), "k", kv.WithGuard(nil)); return err },
		"an update with no guard": func() error { _, err := b.Update(t.Context(), "k", increment, kv.WithGuard(nil)); return err },
		"a checkpoint's put":      func() error { return kv.NewCheckpoint(b.Store, "k", kv.WithTTL(-1)).Save(t.Context(), 1) },
	})
	_, err := b.Put(t.Context(), "", nil, kv.WithTTL(-1), kv.WithLease(0))
	for _, part := range []string{"key is empty", "TTL -1ns", "no lease given", "mutually exclusive"} {
		assert.ErrorContains(t, err, part, "all errors are joined")
	}
}

func TestStore_IgnoresNilOption(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx := t.Context()
	s := b.open(nil, kv.WithLogger(nil))
	_, err := s.Put(ctx, "k", []byte("1"), nil)
	require.NoError(t, err)
	_, err = s.Update(ctx, "k", increment, nil)
	require.NoError(t, err)
	_, err = s.Batch(ctx, kv.OpPut("k", nil, nil), kv.OpDelete("l", nil))
	require.NoError(t, err)
	_, _, err = s.DeletePrefix(ctx, "k/", nil)
	require.NoError(t, err)
	_, err = s.Delete(ctx, "k", nil)
	require.NoError(t, err)
	_, err = kv.NewTyped(s, "", kv.String(), nil, kv.WithBadEntry(nil)).Put(ctx, "k", "x", nil)
	require.NoError(t, err)
}

func TestStore_RejectsMissingArguments(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	codeless := kv.NewTyped[string](b.Store, "", nil)
	storeless := kv.NewTyped(nil, "", kv.String())
	dirless := b.Namespace("//")
	var zero kv.Typed[string]
	nothing := func(*string) error { return nil }
	calls := map[string]func() error{
		"a function for Update": func() error { _, err := b.Update(ctx, "k", nil); return err },
		"a function for typed Update": func() error {
			_, err := kv.NewTyped(b.Store, "", kv.String()).Update(ctx, "k", nil, kv.WithUpsert())
			return err
		},
		"a store for a checkpoint": func() error { return kv.NewCheckpoint(nil, "k").Save(ctx, 1) },
		"a store to load from":     func() error { _, err := kv.NewCheckpoint(nil, "k").Load(ctx); return err },
		"a dir for a transaction":  func() error { _, err := dirless.Txn(ctx).Then(clientv3.OpGet("k")).Commit(); return err },
		"a dir, nested":            func() error { _, err := dirless.Namespace("a").Get(ctx, "k"); return err },
		"a dir, hidden key":        func() error { _, err := dirless.Put(ctx, ".etcdkit/x", nil); return err },
	}
	for name, typed := range map[string]kv.Typed[string]{"a codec": codeless, "a store": storeless, "all": zero} {
		calls[name+" for typed Get"] = func() error { _, err := typed.Get(ctx, "k"); return err }
		calls[name+" for typed GetAsOf"] = func() error { _, err := typed.GetAsOf(ctx, "k", 1); return err }
		calls[name+" for typed Put"] = func() error { _, err := typed.Put(ctx, "k", ""); return err }
		calls[name+" for typed Create"] = func() error { _, err := typed.Create(ctx, "k", ""); return err }
		calls[name+" for typed Replace"] = func() error { _, err := typed.Replace(ctx, "k", "", 1); return err }
		calls[name+" for typed Delete"] = func() error { _, err := typed.Delete(ctx, "k"); return err }
		calls[name+" for typed DeleteAt"] = func() error { _, err := typed.DeleteAt(ctx, "k", 1); return err }
		calls[name+" for typed Update"] = func() error { _, err := typed.Update(ctx, "k", nothing); return err }
		calls[name+" for typed List"] = func() error { _, err := failed(typed.List(ctx)); return err }
		calls[name+" for typed Page"] = func() error { _, err := typed.Page(ctx, 1, ""); return err }
	}
	invalid(t, b, calls)
}
