package kv_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

func TestTyped_KeysAreRelativeToDir(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	users := kv.NewTyped(b.Store, "users", kv.JSON[user]())
	var created int64
	b.costs(t, rpc("KV/Txn", 1), func() {
		var err error
		created, err = users.Create(t.Context(), "42", user{Name: "Ada"})
		require.NoError(t, err)
	})
	assert.JSONEq(t, `{"name":"Ada"}`, b.value(t, "users/42"))
	_, err := users.Create(t.Context(), "42", user{Name: "Bob"})
	require.ErrorIs(t, err, kv.ErrExists)

	var got kv.Entry[user]
	b.costs(t, rpc("KV/Range", 1), func() {
		got, err = users.Get(t.Context(), "42")
		require.NoError(t, err)
	})
	assert.Equal(t, kv.Entry[user]{Key: "42", Value: user{Name: "Ada"}, CreateRevision: created, ModRevision: created, Version: 1}, got)

	replaced, err := users.Replace(t.Context(), "42", user{Name: "Eve"}, got.ModRevision, kv.WithTTL(time.Minute))
	require.NoError(t, err)
	_, err = users.Replace(t.Context(), "42", user{Name: "Bob"}, got.ModRevision)
	conflict(t, err, "42", created, replaced)
	past, err := users.GetAsOf(t.Context(), "42", created)
	require.NoError(t, err)
	assert.Equal(t, got, past)
	now, err := users.Get(t.Context(), "42")
	require.NoError(t, err)
	assert.Equal(t, b.leaseOf(t, "users/42"), now.Lease)

	rev, err := users.Put(t.Context(), "42", user{Name: "Joe"})
	require.NoError(t, err)
	_, err = users.DeleteAt(t.Context(), "42", replaced)
	conflict(t, err, "42", replaced, rev)
	_, err = users.DeleteAt(t.Context(), "42", rev)
	require.NoError(t, err)
	gone, err := users.Delete(t.Context(), "42")
	require.NoError(t, err)
	assert.Zero(t, gone)
	_, err = users.Get(t.Context(), "42")
	require.ErrorIs(t, err, kv.ErrNotFound)
	require.EqualError(t, err, `kv: get "`+b.dir+`users/42": key not found`)
}

func TestTyped_HandlesAreSeparate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	users, names := kv.NewTyped(b.Store, "users/", kv.JSON[user]()), kv.NewTyped(b.Store, "names", kv.String())
	_, err := users.Put(t.Context(), "1", user{Name: "Ada"})
	require.NoError(t, err)
	_, err = names.Put(t.Context(), "1", "Ada")
	require.NoError(t, err)
	for _, count := range []func() int{
		func() int { p, err := users.Page(t.Context(), 10, ""); require.NoError(t, err); return len(p.Entries) },
		func() int { p, err := names.Page(t.Context(), 10, ""); require.NoError(t, err); return len(p.Entries) },
	} {
		assert.Equal(t, 1, count())
	}
	root := kv.NewTyped(b.Store, "", kv.String())
	e, err := root.Get(t.Context(), "names/1")
	require.NoError(t, err)
	assert.Equal(t, "Ada", e.Value)
}

func TestTyped_UpdateModifiesInPlace(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	users := kv.NewTyped(b.Store, "users", kv.JSON[user]())
	visit := func(u *user) error { u.Visits++; return nil }
	_, err := users.Update(t.Context(), "42", visit)
	require.ErrorIs(t, err, kv.ErrNotFound)
	first, err := users.Update(t.Context(), "42", visit, kv.WithUpsert())
	require.NoError(t, err)
	assert.Equal(t, kv.Entry[user]{Key: "42", Value: user{Visits: 1}, CreateRevision: first.ModRevision, ModRevision: first.ModRevision, Version: 1}, first)

	const goroutines, each = 8, 5
	b.rpcs.Reset()
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				_, err := users.Update(t.Context(), "42", visit)
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	now, err := users.Get(t.Context(), "42")
	require.NoError(t, err)
	assert.Equal(t, 1+goroutines*each, now.Value.Visits)
}

func TestTyped_UpdateCallsFunctionWithNewValue(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	users := kv.NewTyped(b.Store, "users", kv.JSON[user]())
	b.put(t, "users/42", `{"name":"Ada","tags":{"a":"1"}}`)
	calls := 0
	got, err := users.Update(t.Context(), "42", func(u *user) error {
		calls++
		if calls == 1 {
			b.put(t, "users/42", `{"name":"Eve"}`)
		}
		assert.Zero(t, u.Visits, "nothing is left of an earlier call")
		u.Visits++
		return nil
	})
	require.NoError(t, err)
	assert.Equal(t, 2, calls)
	assert.Equal(t, user{Name: "Eve", Visits: 1}, got.Value)
}

func TestTyped_UpdateReturnsErrorOfFunction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	users := kv.NewTyped(b.Store, "users", kv.JSON[user]())
	rev := b.put(t, "users/42", `{"name":"Ada"}`)
	got, err := users.Update(t.Context(), "42", func(u *user) error { u.Name = "Eve"; return kv.ErrSkipUpdate })
	require.NoError(t, err)
	assert.Equal(t, kv.Entry[user]{Key: "42", Value: user{Name: "Ada"}, CreateRevision: rev, ModRevision: rev, Version: 1}, got)
	got, err = users.Update(t.Context(), "absent", func(*user) error { return kv.ErrSkipUpdate }, kv.WithUpsert())
	require.NoError(t, err)
	assert.Equal(t, kv.Entry[user]{Key: "absent"}, got)
	_, err = users.Update(t.Context(), "42", func(*user) error { return errNoMore })
	require.ErrorIs(t, err, errNoMore)
	assert.JSONEq(t, `{"name":"Ada"}`, b.value(t, "users/42"))
}

var errCodec = errors.New("the codec does not like it")

// fakePickyCodec is a codec that does not like a word.
type fakePickyCodec struct{}

func (fakePickyCodec) Encode(_, v string) ([]byte, error) {
	if v == "bad" {
		return nil, errCodec
	}
	return []byte(v), nil
}

func (fakePickyCodec) Decode(_ string, b []byte) (string, error) {
	if string(b) == "bad" {
		return "half a value", errCodec
	}
	return string(b), nil
}

func TestTyped_UndecodableValueIsKept(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := kv.NewTyped(b.Store, "", fakePickyCodec{})
	rev := b.put(t, "k", "bad")
	ctx := t.Context()
	for name, call := range map[string]func() (kv.Entry[string], error){
		"get":       func() (kv.Entry[string], error) { return s.Get(ctx, "k") },
		"get as of": func() (kv.Entry[string], error) { return s.GetAsOf(ctx, "k", rev) },
		"update": func() (kv.Entry[string], error) {
			return s.Update(ctx, "k", func(v *string) error { *v = "good"; return nil })
		},
	} {
		got, err := call()
		require.ErrorIs(t, err, kv.ErrDecode, name)
		require.ErrorIs(t, err, errCodec, name)
		assert.Zero(t, got.Value, name)
	}
	assert.Equal(t, "bad", b.value(t, "k"))
}

func TestTyped_UnencodableValueIsNotSent(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	s := kv.NewTyped(b.Store, "", fakePickyCodec{})
	ctx := t.Context()
	for name, call := range map[string]func() error{ //nolint:paralleltest // as above
		"put":     func() error { _, err := s.Put(ctx, "k", "bad"); return err },
		"create":  func() error { _, err := s.Create(ctx, "k", "bad"); return err },
		"replace": func() error { _, err := s.Replace(ctx, "k", "bad", 1); return err },
	} {
		t.Run(name, func(t *testing.T) { b.refused(t, call, kv.ErrInvalid, errCodec) })
	}
	b.put(t, "k", "good")
	_, err := s.Update(ctx, "k", func(v *string) error { *v = "bad"; return nil })
	require.ErrorIs(t, err, kv.ErrInvalid)
	require.ErrorIs(t, err, errCodec)
	assert.True(t, errs.NotApplied(err))
	assert.Equal(t, "good", b.value(t, "k"))
}

func TestTyped_PageSkipsBadEntry(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "a", "1")
	bad := b.put(t, "b", "bad")
	b.put(t, "c", "3")
	b.put(t, "d", "4")
	type told struct {
		key string
		rev int64
	}
	var heard []told
	lenient := kv.NewTyped(b.Store, "", fakePickyCodec{}, kv.WithBadEntry(func(key string, rev int64, err error) error {
		assert.ErrorIs(t, err, kv.ErrDecode)
		assert.ErrorIs(t, err, errCodec)
		heard = append(heard, told{key, rev})
		return nil
	}))
	p, err := lenient.Page(t.Context(), 3, "")
	require.NoError(t, err)
	assert.Equal(t, []told{{"b", bad}}, heard)
	require.Len(t, p.Entries, 2)
	assert.Equal(t, "3", p.Entries[1].Value)
	assert.EqualValues(t, 4, p.Total)
	p, err = lenient.Page(t.Context(), 3, p.Cursor)
	require.NoError(t, err)
	require.Len(t, p.Entries, 1)
	assert.Equal(t, "d", p.Entries[0].Key)

	strict := kv.NewTyped(b.Store, "", fakePickyCodec{})
	_, err = strict.Page(t.Context(), 3, "")
	require.ErrorIs(t, err, kv.ErrDecode)
	require.ErrorContains(t, err, b.dir+`b"`)
	stern := kv.NewTyped(b.Store, "", fakePickyCodec{}, kv.WithBadEntry(func(string, int64, error) error { return errNoMore }))
	_, err = stern.Page(t.Context(), 3, "")
	require.ErrorIs(t, err, errNoMore)
	_, err = lenient.Get(t.Context(), "b")
	require.ErrorIs(t, err, kv.ErrDecode, "a single value is asked for by name")
}

func TestTyped_WritesTakeOptions(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	g, lose := hold(t, b, errOwner)
	s := kv.NewTyped(b.Store, "dir", kv.String())
	lease := b.lease(t)
	_, err := s.Put(t.Context(), "k", "x", kv.WithGuard(g), kv.WithLease(lease), kv.WithOnce())
	require.NoError(t, err)
	assert.Equal(t, lease, b.leaseOf(t, "dir/k"))
	e, err := s.Update(t.Context(), "k", func(v *string) error { *v += "y"; return nil }, kv.WithGuard(g), kv.WithOnce(), kv.WithoutLease())
	require.NoError(t, err)
	assert.Equal(t, "xy", e.Value)
	assert.Zero(t, e.Lease)
	lose()
	_, err = s.Delete(t.Context(), "k", kv.WithGuard(g))
	require.ErrorIs(t, err, errOwner)
}
