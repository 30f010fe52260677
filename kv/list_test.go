package kv_test

import (
	"context"
	"fmt"
	"iter"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	testkit "github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// listed collects the keys of a listing.
func listed[T any](t *testing.T, seq iter.Seq2[kv.Entry[T], error]) (keys []string) {
	t.Helper()
	for e, err := range seq {
		require.NoError(t, err)
		keys = append(keys, e.Key)
	}
	return keys
}

// failed is the error that a listing ends with, after so many entries.
func failed[T any](seq iter.Seq2[T, error]) (n int, last error) {
	for _, err := range seq {
		if last != nil {
			return n, fmt.Errorf("something comes after %w", last)
		}
		if last = err; err == nil {
			n++
		}
	}
	return n, last
}

func TestList_YieldsPrefixInOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var last int64
	for _, key := range []string{"a/3", "a/1", "a/2/x", "a", "a0", "ab/1", "a/\xff", "b"} {
		last = b.put(t, key, "value of "+key)
	}
	_, err := b.Put(t.Context(), "~", nil, kv.WithOnce())
	require.NoError(t, err)
	want := []string{"a/1", "a/2/x", "a/3", "a/\xff"}
	assert.Equal(t, want, listed(t, b.List(t.Context(), "a/")))
	assert.Equal(t, []string{"a", "a/1", "a/2/x", "a/3", "a/\xff", "a0", "ab/1", "b", "~"}, listed(t, b.List(t.Context(), "")), "the slot is hidden")
	assert.Empty(t, listed(t, b.List(t.Context(), "none/")))

	var keys []string
	for key, err := range b.Keys(t.Context(), "a/") {
		require.NoError(t, err)
		keys = append(keys, key)
	}
	assert.Equal(t, want, keys)
	m, err := b.Map(t.Context(), "a/")
	require.NoError(t, err)
	assert.Equal(t, map[string][]byte{
		"a/1": []byte("value of a/1"), "a/2/x": []byte("value of a/2/x"), "a/3": []byte("value of a/3"), "a/\xff": []byte("value of a/\xff"),
	}, m)
	for e, err := range b.List(t.Context(), "b", kv.WithPartialPrefix()) {
		require.NoError(t, err)
		assert.Equal(t, kv.Entry[[]byte]{Key: "b", Value: []byte("value of b"), CreateRevision: last, ModRevision: last, Version: 1}, e)
	}
}

func TestList_CostsOneReadAndOneStream(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	testkit.Requires(t, testkit.RangeStream)
	_, err := b.Batch(t.Context(), puts(300, 100)...)
	require.NoError(t, err)
	b.costs(t, map[string]int{"KV/Range": 1, "KV/RangeStream": 1}, func() {
		assert.Len(t, listed(t, b.List(t.Context(), "many/")), 300)
	})
}

func TestList_ShowsOneRevision(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := b.Batch(t.Context(), puts(5000, 1000)...)
	require.NoError(t, err)
	n := 0
	for e, err := range b.List(t.Context(), "many/") {
		require.NoError(t, err)
		n++
		if n == 1 {
			b.put(t, "many/4999", "changed")
			b.remove(t, "many/4998")
			b.put(t, "many/9999", "new")
		}
		require.Len(t, e.Value, 1000, e.Key)
	}
	assert.Equal(t, 5000, n)
}

func TestList_CombinesOptions(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 6 {
		b.put(t, fmt.Sprintf("a/%d", i), "x")
	}
	before := b.put(t, "a/6", "x")
	b.remove(t, "a/0")
	for name, c := range map[string]struct {
		opts []kv.ListOption
		want string
	}{
		"nothing":                    {nil, "1 2 3 4 5 6"},
		"a limit":                    {[]kv.ListOption{kv.WithLimit(2)}, "1 2"},
		"a limit above":              {[]kv.ListOption{kv.WithLimit(math.MaxInt)}, "1 2 3 4 5 6"},
		"after a key":                {[]kv.ListOption{kv.WithAfter("a/3")}, "4 5 6"},
		"after one that is not":      {[]kv.ListOption{kv.WithAfter("a/3x")}, "4 5 6"},
		"after the last":             {[]kv.ListOption{kv.WithAfter("a/6")}, ""},
		"backwards":                  {[]kv.ListOption{kv.WithReverse()}, "6 5 4 3 2 1"},
		"backwards from a key":       {[]kv.ListOption{kv.WithReverse(), kv.WithAfter("a/3")}, "2 1"},
		"backwards, a few":           {[]kv.ListOption{kv.WithReverse(), kv.WithLimit(2)}, "6 5"},
		"the past":                   {[]kv.ListOption{kv.WithRevision(before)}, "0 1 2 3 4 5 6"},
		"the past, backwards, a few": {[]kv.ListOption{kv.WithRevision(before), kv.WithReverse(), kv.WithLimit(3), kv.WithAfter("a/5")}, "4 3 2"},
	} {
		var got []string
		for _, key := range listed(t, b.List(t.Context(), "a/", c.opts...)) {
			got = append(got, strings.TrimPrefix(key, "a/"))
		}
		assert.Equal(t, c.want, strings.Join(got, " "), name)
	}
	var everything []string
	for e, err := range b.List(t.Context(), "", kv.WithReverse(), kv.WithLimit(3)) {
		require.NoError(t, err)
		everything = append(everything, e.Key)
	}
	assert.Equal(t, []string{"a/6", "a/5", "a/4"}, everything)
}

func TestList_RejectsInvalidOptions(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	ended, end := context.WithCancelCause(t.Context())
	end(errNoMore)
	for name, c := range map[string]struct { //nolint:paralleltest // as above
		ctx    context.Context
		s      *kv.Store
		prefix string
		o      kv.ListOption
		want   error
	}{
		"no slash":          {t.Context(), b.Store, "a", nil, kv.ErrInvalid},
		"all of etcd":       {t.Context(), etcdtest.Must(kv.New(b.cli)), "", nil, kv.ErrInvalid},
		"no limit":          {t.Context(), b.Store, "a/", kv.WithLimit(0), kv.ErrInvalid},
		"a negative limit":  {t.Context(), b.Store, "a/", kv.WithLimit(-1), kv.ErrInvalid},
		"after what is not": {t.Context(), b.Store, "a/", kv.WithAfter("b"), kv.ErrInvalid},
		"no revision":       {t.Context(), b.Store, "a/", kv.WithRevision(0), kv.ErrInvalid},
		"a bad store":       {t.Context(), b.Namespace("//"), "a/", nil, kv.ErrInvalid},
		"a context that is": {ended, b.Store, "a/", nil, errNoMore},
	} {
		t.Run(name, func(t *testing.T) {
			b.refused(t, func() error { _, err := failed(c.s.List(c.ctx, c.prefix, c.o)); return err }, c.want)
			b.refused(t, func() error { _, err := failed(c.s.Keys(c.ctx, c.prefix, c.o)); return err }, c.want)
			b.refused(t, func() error { _, err := c.s.Map(c.ctx, c.prefix, c.o); return err }, c.want)
		})
	}
	_, err := failed(b.List(t.Context(), "a/", kv.WithRevision(math.MaxInt64)))
	require.ErrorIs(t, err, kv.ErrInvalid, "it is yet to come")
}

func TestList_CompactedRevisionReturnsErrCompacted(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	b := privateBench(t, server)
	old := b.put(t, "a/1", "x")
	b.put(t, "a/1", "y")
	server.Compact(0)
	n, err := failed(b.List(t.Context(), "a/", kv.WithRevision(old)))
	require.ErrorIs(t, err, kv.ErrCompacted)
	assert.Zero(t, n)
}

func TestList_BreakEndsRead(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := b.Batch(t.Context(), puts(3000, 2000)...)
	require.NoError(t, err)
	for range 20 { // what is left behind, the end of all tests finds
		for e, err := range b.List(t.Context(), "many/") {
			require.NoError(t, err)
			assert.Equal(t, "many/0000", e.Key)
			break
		}
	}
	assert.PanicsWithValue(t, "in the loop", func() {
		for _, err := range b.List(t.Context(), "many/") {
			require.NoError(t, err)
			panic("in the loop")
		}
	})
}

func TestList_EndsWithContext(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := b.Batch(t.Context(), puts(3000, 2000)...)
	require.NoError(t, err)
	ctx, end := context.WithCancelCause(t.Context())
	defer end(nil)
	var last error
	n := 0
	for _, err := range b.List(ctx, "many/") {
		if last = err; err != nil {
			break
		}
		n++
		if n == 1 {
			end(errNoMore)
		}
	}
	require.ErrorIs(t, last, context.Canceled)
	require.ErrorIs(t, last, errNoMore)
	assert.Less(t, n, 3000)
}

func TestTyped_ListDecodes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "d/a", "1")
	bad := b.put(t, "d/b", "bad")
	b.put(t, "d/c", "3")
	var heard []string
	lenient := kv.NewTyped(b.Store, "d", fakePickyCodec{}, kv.WithBadEntry(func(key string, rev int64, err error) error {
		assert.ErrorIs(t, err, kv.ErrDecode)
		heard = append(heard, fmt.Sprint(key, rev))
		return nil
	}))
	assert.Equal(t, []string{"a", "c"}, listed(t, lenient.List(t.Context())))
	assert.Equal(t, []string{fmt.Sprint("b", bad)}, heard)
	assert.Equal(t, []string{"c"}, listed(t, lenient.List(t.Context(), kv.WithReverse(), kv.WithLimit(1))))

	n, err := failed(kv.NewTyped(b.Store, "d", fakePickyCodec{}).List(t.Context()))
	require.ErrorIs(t, err, kv.ErrDecode)
	require.ErrorContains(t, err, `d/b"`)
	assert.Equal(t, 1, n)
	stern := kv.NewTyped(b.Store, "d", fakePickyCodec{}, kv.WithBadEntry(func(string, int64, error) error { return errNoMore }))
	n, err = failed(stern.List(t.Context()))
	require.ErrorIs(t, err, errNoMore)
	assert.Equal(t, 1, n)
	_, err = failed(kv.NewTyped[string](b.Store, "d", nil).List(t.Context()))
	require.ErrorIs(t, err, kv.ErrInvalid)
}
