package kv_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

type account struct{ Balance int }

var errFunds = errors.New("no funds")

// transfer moves an amount between two accounts, and leaves a receipt.
func transfer(accounts kv.Typed[account], receipts kv.Typed[string], id, from, to string, amount int) kv.TxFunc {
	return func(_ context.Context, tx *kv.Tx) error {
		both, err := accounts.In(tx).GetMany(from, to)
		if err != nil {
			return err
		}
		a, b := both[from].Value, both[to].Value
		if a.Balance < amount {
			return errFunds
		}
		a.Balance, b.Balance = a.Balance-amount, b.Balance+amount
		return errors.Join(accounts.In(tx).Put(from, a), accounts.In(tx).Put(to, b), receipts.In(tx).Put(id, from+" to "+to))
	}
}

func TestTransact_AppliesWritesTogether(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	accounts, receipts := kv.NewTyped(b.Store, "acc", kv.JSON[account]()), kv.NewTyped(b.Store, "done", kv.String())
	b.put(t, "acc/ada", `{"Balance":100}`)
	b.put(t, "acc/bob", `{"Balance":1}`)
	var rev int64
	b.costs(t, rpc("KV/Txn", 2), func() {
		var err error
		rev, err = b.Transact(t.Context(), transfer(accounts, receipts, "1", "ada", "bob", 30))
		require.NoError(t, err)
	})
	for key, want := range map[string]string{"acc/ada": `{"Balance":70}`, "acc/bob": `{"Balance":31}`, "done/1": "ada to bob"} {
		e, err := b.Get(t.Context(), key)
		require.NoError(t, err)
		assert.Equal(t, want, string(e.Value))
		assert.Equal(t, rev, e.ModRevision, "all at one revision")
	}
	b.costs(t, rpc("KV/Txn", 1), func() {
		_, err := b.Transact(t.Context(), transfer(accounts, receipts, "2", "ada", "bob", 71))
		assert.Equal(t, errFunds, err, "an error of the function is returned as it is")
	})
	assert.Equal(t, "<none>", b.value(t, "done/2"))
}

func TestTransact_ReadsAreOfOneRevision(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	before := b.put(t, "a", "1")
	b.put(t, "dir/x", "1")
	_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
		assert.Zero(t, tx.Revision())
		a, err := tx.Get("a")
		require.NoError(t, err)
		assert.Equal(t, kv.Entry[[]byte]{Key: "a", Value: []byte("1"), CreateRevision: before, ModRevision: before, Version: 1}, a)
		read := tx.Revision()
		assert.GreaterOrEqual(t, read, before)

		b.put(t, "a", "2")
		b.put(t, "b", "2")
		b.put(t, "dir/x", "2")
		b.put(t, "dir/y", "2")
		_, err = tx.Get("b")
		require.ErrorIs(t, err, kv.ErrNotFound)
		many, err := tx.GetMany("a", "b", "dir/x")
		require.NoError(t, err)
		assert.Equal(t, map[string]string{"a": "1", "dir/x": "1"}, valuesOf(many))
		var told int64
		listed := list(t, tx, "dir/", kv.WithReadRevision(&told))
		assert.Equal(t, []string{"dir/x=1"}, listed)
		assert.Equal(t, read, told)
		assert.Equal(t, read, tx.Revision())
		return nil
	})
	require.NoError(t, err)
}

func valuesOf(entries map[string]raw) map[string]string {
	out := make(map[string]string)
	for key, e := range entries {
		out[key] = string(e.Value)
	}
	return out
}

// list returns a listing as "key=value".
func list(t *testing.T, tx *kv.Tx, prefix string, o ...kv.ListOption) (out []string) {
	t.Helper()
	for e, err := range tx.List(prefix, o...) {
		require.NoError(t, err)
		out = append(out, e.Key+"="+string(e.Value))
	}
	return out
}

// onFirst runs an effect in the first attempt only.
func onFirst(tx *kv.Tx, effect func()) {
	if tx.Attempt() == 1 {
		effect()
	}
}

func TestTransact_RunsAgainAfterConflict(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "listed/old", "1")
	b.put(t, "stays", "1")
	b.put(t, "goes", "1")
	for name, c := range map[string]struct {
		read   func(tx *kv.Tx) error
		change func(t *testing.T)
	}{
		"a key was overwritten": {func(tx *kv.Tx) error { _, err := tx.Get("stays"); return err }, func(t *testing.T) { t.Helper(); b.put(t, "stays", "2") }},
		"a key was written with the same value": {
			func(tx *kv.Tx) error { _, err := tx.GetMany("stays"); return err },
			func(t *testing.T) { t.Helper(); b.put(t, "stays", "2") },
		},
		"a key was deleted": {func(tx *kv.Tx) error { _, err := tx.GetMany("goes"); return err }, func(t *testing.T) { t.Helper(); b.remove(t, "goes") }},
		"an absent key was created": {
			func(tx *kv.Tx) error { _, err := tx.GetMany("new"); return err }, func(t *testing.T) { t.Helper(); b.put(t, "new", "1") },
		},
		"a key was created in a range": {
			func(tx *kv.Tx) error { return drain(tx, "phantom/") }, func(t *testing.T) { t.Helper(); b.put(t, "phantom/1", "1") },
		},
		"a key was deleted from a range": {
			func(tx *kv.Tx) error { return drain(tx, "listed/") }, func(t *testing.T) { t.Helper(); b.remove(t, "listed/old") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, attempts := "out/"+strings.ReplaceAll(name, " ", "-"), 0
			_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
				attempts = tx.Attempt()
				if err := c.read(tx); err != nil {
					return err
				}
				onFirst(tx, func() { c.change(t) })
				return tx.Put(out, strconv.AppendInt(nil, int64(tx.Attempt()), 10))
			})
			require.NoError(t, err)
			assert.GreaterOrEqual(t, attempts, 2)
			assert.Equal(t, strconv.Itoa(attempts), b.value(t, out))
		})
	}
}

// drain reads a listing to its end.
func drain(tx *kv.Tx, prefix string) error {
	for _, err := range tx.List(prefix) {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestTransact_RetryUsesReadsOfRejectedRequest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "a", "1")
	b.put(t, "b", "1")
	b.costs(t, map[string]int{"KV/Range": 2, "KV/Txn": 2}, func() {
		_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
			x, err := tx.Get("a")
			require.NoError(t, err)
			y, err := tx.Get("b")
			require.NoError(t, err)
			onFirst(tx, func() { b.put(t, "b", "2"); b.remove(t, "gone") })
			return tx.Put("sum", append(x.Value, y.Value...))
		})
		require.NoError(t, err)
	})
	assert.Equal(t, "12", b.value(t, "sum"))
}

func TestTransact_ReadsItsOwnWrites(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, key := range []string{"d/2", "d/4", "d/6"} {
		b.put(t, key, "stored")
	}
	_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
		for _, key := range []string{"d/1", "d/4", "d/5", "d/7"} {
			require.NoError(t, tx.Put(key, []byte("own")))
		}
		require.NoError(t, tx.Delete("d/2"))
		require.NoError(t, tx.Delete("d/9"))
		e, err := tx.Get("d/4")
		require.NoError(t, err)
		assert.Equal(t, raw{Key: "d/4", Value: []byte("own")}, e)
		_, err = tx.Get("d/2")
		require.ErrorIs(t, err, kv.ErrNotFound)
		many, err := tx.GetMany("d/1", "d/2", "d/6")
		require.NoError(t, err)
		assert.Equal(t, map[string]string{"d/1": "own", "d/6": "stored"}, valuesOf(many))
		want := []string{"d/1=own", "d/4=own", "d/5=own", "d/6=stored", "d/7=own"}
		assert.Equal(t, want, list(t, tx, "d/"))
		assert.Equal(t, want[:3], list(t, tx, "d/", kv.WithLimit(3)))
		assert.Equal(t, want[2:], list(t, tx, "d/", kv.WithAfter("d/4")))
		assert.Equal(t, []string{"d/7=own", "d/6=stored"}, list(t, tx, "d/", kv.WithReverse(), kv.WithLimit(2)))
		slices.Reverse(want)
		assert.Equal(t, want, list(t, tx, "d/", kv.WithReverse()))
		return nil
	})
	require.NoError(t, err)
	got, err := b.Map(t.Context(), "d/")
	require.NoError(t, err)
	assert.Equal(t, []string{"d/1", "d/4", "d/5", "d/6", "d/7"}, slices.Sorted(maps.Keys(got)))
}

func TestTransact_EntriesMayBeModified(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "abc")
	_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
		value := []byte("own")
		require.NoError(t, tx.Put("own", value))
		value[0] = 'X'
		for range 2 {
			for _, key := range []string{"k", "own"} {
				e, err := tx.Get(key)
				require.NoError(t, err)
				assert.Equal(t, map[string]string{"k": "abc", "own": "own"}[key], string(e.Value))
				clear(e.Value)
			}
			assert.Equal(t, []string{"k=abc", "own=own"}, list(t, tx, ""))
			for e, err := range tx.List("") {
				require.NoError(t, err)
				clear(e.Value)
			}
		}
		return nil
	})
	require.NoError(t, err)
}

// A listing is guarded as far as it was read, and no further.
func TestTransact_GuardsRangeListedBeforeBreak(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 6 {
		b.put(t, fmt.Sprintf("up/%02d", 2*i), "1")
		b.put(t, fmt.Sprintf("down/%02d", 2*i), "1")
	}
	readThree := func(tx *kv.Tx, prefix string, o ...kv.ListOption) error {
		n := 0
		for _, err := range tx.List(prefix, o...) {
			n++
			if err != nil || n == 3 {
				return err
			}
		}
		return errors.New("too few")
	}
	attempts := func(t *testing.T, read func(tx *kv.Tx) error, change func()) (n int) {
		t.Helper()
		_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
			n = tx.Attempt()
			require.NoError(t, read(tx))
			onFirst(tx, change)
			return tx.Put("out", nil)
		})
		require.NoError(t, err)
		return n
	}
	up := func(tx *kv.Tx) error { return readThree(tx, "up/") }
	limited := func(tx *kv.Tx) error {
		for _, err := range tx.List("up/", kv.WithLimit(3)) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	down := func(tx *kv.Tx) error { return readThree(tx, "down/", kv.WithReverse()) }
	assert.Equal(t, 1, attempts(t, up, func() { b.put(t, "up/05", "behind") }))
	assert.Equal(t, 1, attempts(t, up, func() { b.remove(t, "up/06") }))
	assert.Equal(t, 2, attempts(t, up, func() { b.put(t, "up/01", "phantom") }))
	assert.Equal(t, 2, attempts(t, up, func() { b.remove(t, "up/01") }))
	assert.Equal(t, 2, attempts(t, up, func() { b.put(t, "up/04", "changed") }))
	assert.Equal(t, 1, attempts(t, limited, func() { b.put(t, "up/05", "behind") }))
	assert.Equal(t, 2, attempts(t, limited, func() { b.put(t, "up/03", "phantom") }))
	b.remove(t, "up/03")
	assert.Equal(t, 1, attempts(t, down, func() { b.put(t, "down/01", "behind") }))
	assert.Equal(t, 2, attempts(t, down, func() { b.put(t, "down/07", "phantom") }), "10, 8 and 7 are not what was read")
}

// A listing of the namespace leaves out the library's own keys, and what it guards does so too.
func TestTransact_ListingOfTheNamespaceIgnoresHiddenKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "a", "1")
	b.put(t, ".a", "1")
	attempts := 0
	for range 2 {
		_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
			attempts++
			assert.Equal(t, []string{".a=1", "a=1"}, list(t, tx, "")[:2])
			onFirst(tx, func() {
				// This writes an operation slot.
				_, err := b.open().Put(t.Context(), "out", nil, kv.WithOnce())
				require.NoError(t, err)
				b.remove(t, "out")
			})
			return tx.Put("out", nil)
		}, kv.WithOnce())
		require.NoError(t, err)
	}
	assert.LessOrEqual(t, attempts, 3)
}

func TestTransact_LongListing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ops := make([]kv.Op, 1200)
	for i := range ops {
		ops[i] = kv.OpPut(fmt.Sprintf("d/%04d", i), nil)
	}
	_, err := b.Batch(t.Context(), ops...)
	require.NoError(t, err)
	for _, o := range [][]kv.ListOption{nil, {kv.WithReverse()}} {
		rev, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
			keys := list(t, tx, "d/", o...)
			require.Len(t, keys, len(ops))
			if len(o) == 0 {
				assert.True(t, slices.IsSorted(keys))
			}
			return nil
		})
		require.NoError(t, err)
		assert.Positive(t, rev)
	}
	b.rpcs.Reset()
	_, err = b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
		require.Len(t, list(t, tx, "d/"), len(ops))
		return tx.Put("out", nil)
	})
	require.ErrorIs(t, err, kv.ErrTooLarge)
	assert.Zero(t, b.rpcs.Count("KV/Txn"), "nothing is sent")
}

func TestTransact_LimitsCountComparesAndOperations(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	read := func(n int) kv.TxFunc {
		return func(_ context.Context, tx *kv.Tx) error {
			keys := make([]string, n)
			for i := range keys {
				keys[i] = fmt.Sprintf("k/%03d", i)
			}
			if _, err := tx.GetMany(keys...); err != nil {
				return err
			}
			return tx.Put("out", nil)
		}
	}
	write := func(n int) kv.TxFunc {
		return func(_ context.Context, tx *kv.Tx) error {
			for i := range n {
				if err := tx.Put(fmt.Sprintf("w/%03d", i), nil); err != nil {
					return err
				}
			}
			return nil
		}
	}
	held := kv.NewGuard(nil, clientv3.Compare(clientv3.CreateRevision(b.dir+"absent"), "=", 0), clientv3.Compare(clientv3.CreateRevision(b.dir+"absent2"), "=", 0))
	for _, c := range []struct {
		name string
		f    kv.TxFunc
		o    []kv.WriteOption
		ok   bool
	}{
		{"128 reads", read(128), nil, true},
		{"129 reads", read(129), nil, false},
		{"128 writes", write(128), nil, true},
		{"129 writes", write(129), nil, false},
		{"with a slot", read(126), []kv.WriteOption{kv.WithOnce()}, true},
		{"with a slot, too many", read(127), []kv.WriteOption{kv.WithOnce()}, false},
		{"with a guard of two compares", read(124), []kv.WriteOption{kv.WithGuard(held)}, true},
		{"with a guard, too many", read(125), []kv.WriteOption{kv.WithGuard(held)}, false},
		{"everything", read(123), []kv.WriteOption{kv.WithGuard(held), kv.WithOnce()}, true},
	} {
		_, err := b.Transact(t.Context(), c.f, c.o...)
		if c.ok {
			require.NoError(t, err, c.name)
		} else {
			require.ErrorIs(t, err, kv.ErrTooLarge, c.name)
		}
	}
	_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
		return errors.Join(tx.Put("a", make([]byte, 1<<20)), tx.Put("b", make([]byte, 1<<20)))
	})
	require.ErrorIs(t, err, kv.ErrTooLarge)
	_, err = b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
		keys := make([]string, 300)
		for i := range keys {
			keys[i] = strconv.Itoa(i)
		}
		_, err := tx.GetMany(keys...)
		return err
	})
	require.NoError(t, err, "reads alone are not limited")
}

func TestTransact_MethodErrorsAreSticky(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "broken", "x")
	typed := kv.NewTyped(b.Store, "", kv.JSON[int]())
	other := etcdtest.Must(kv.New(b.cli))
	for name, c := range map[string]struct {
		call   func(tx *kv.Tx) error
		sticky error
	}{
		"not found":          {func(tx *kv.Tx) error { _, err := tx.Get("absent"); return err }, nil},
		"does not decode":    {func(tx *kv.Tx) error { _, err := typed.In(tx).Get("broken"); return err }, nil},
		"a bad key":          {func(tx *kv.Tx) error { _, err := tx.Get(""); return err }, kv.ErrInvalid},
		"a bad key of many":  {func(tx *kv.Tx) error { _, err := tx.GetMany("a", ""); return err }, kv.ErrInvalid},
		"a bad prefix":       {func(tx *kv.Tx) error { return drain(tx, "x") }, kv.ErrInvalid},
		"a hidden key":       {func(tx *kv.Tx) error { return tx.Put(".etcdkit/x", nil) }, kv.ErrInvalid},
		"a bad delete":       {func(tx *kv.Tx) error { return tx.Delete("") }, kv.ErrInvalid},
		"a bad TTL":          {func(tx *kv.Tx) error { return tx.Put("k", nil, kv.WithTTL(-1)) }, kv.ErrInvalid},
		"a large value":      {func(tx *kv.Tx) error { return tx.Put("k", make([]byte, 2<<20)) }, kv.ErrTooLarge},
		"an unencodable one": {func(tx *kv.Tx) error { return kv.NewTyped(b.Store, "", kv.JSON[chan int]()).In(tx).Put("k", nil) }, kv.ErrInvalid},
		"another store":      {func(tx *kv.Tx) error { _, err := kv.NewTyped(other, "d", kv.String()).In(tx).Get("k"); return err }, kv.ErrInvalid},
		"a revision": {func(tx *kv.Tx) error {
			for _, err := range tx.List("d/", kv.WithRevision(1)) {
				return err
			}
			return nil
		}, kv.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
				require.Error(t, c.call(tx))
				err := tx.Put("out/"+name, nil)
				if c.sticky == nil {
					assert.NoError(t, err)
				} else {
					assert.ErrorIs(t, err, c.sticky, "later calls return it")
				}
				return nil // the function ignores it
			})
			if c.sticky == nil {
				require.NoError(t, err)
				assert.Empty(t, b.value(t, "out/"+name))
				return
			}
			require.ErrorIs(t, err, c.sticky)
			assert.Equal(t, "<none>", b.value(t, "out/"+name))
			own := errors.New("own")
			_, err = b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
				_ = c.call(tx)
				return own
			})
			require.ErrorIs(t, err, own)
			require.ErrorIs(t, err, c.sticky)
		})
	}
}

func TestTransact_RefusesBadArguments(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	nothing := func(context.Context, *kv.Tx) error { return nil }
	ended, stop := context.WithCancel(t.Context())
	stop()
	for name, call := range map[string]func() error{
		"nil function":  func() error { return errOf(b.Transact(t.Context(), nil)) },
		"nil guard":     func() error { return errOf(b.Transact(t.Context(), nothing, kv.WithGuard(nil))) },
		"bad namespace": func() error { return errOf(b.Namespace("//").Transact(t.Context(), nothing)) },
		"zero Tx":       func() error { _, err := new(kv.Tx).Get("k"); return err },
	} {
		b.refused(t, call, kv.ErrInvalid)
		t.Log(name, call())
	}
	b.costs(t, none(), func() { require.ErrorIs(t, errOf(b.Transact(ended, nothing)), context.Canceled) })
}

func TestTransact_RefusesNesting(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "1")
	inner := b.Namespace("inner")
	for name, nested := range map[string]func(ctx context.Context) error{
		"transaction": func(ctx context.Context) error {
			return errOf(b.Transact(ctx, func(context.Context, *kv.Tx) error { return nil }))
		},
		"transaction below": func(ctx context.Context) error {
			return errOf(inner.Transact(ctx, func(context.Context, *kv.Tx) error { return nil }))
		},
		"update": func(ctx context.Context) error { _, err := b.Update(ctx, "k", increment); return err },
		"typed update": func(ctx context.Context) error {
			_, err := kv.NewTyped(b.Store, "", kv.JSON[int]()).Update(ctx, "k", func(*int) error { return nil })
			return err
		},
	} {
		_, err := b.Transact(t.Context(), func(ctx context.Context, _ *kv.Tx) error { return nested(ctx) })
		require.ErrorIs(t, err, kv.ErrInvalid, name)
	}
	other := b.open()
	_, err := b.Transact(t.Context(), func(ctx context.Context, _ *kv.Tx) error {
		_, err := other.Update(ctx, "k", increment)
		return err
	})
	require.NoError(t, err, "another store is none of its business")
}

func TestTransact_TxIsInvalidAfterFunction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var kept *kv.Tx
	_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error { kept = tx; return nil })
	require.NoError(t, err)
	b.refused(t, func() error { return kept.Put("k", nil) }, kv.ErrInvalid)
	b.refused(t, func() error { _, err := kept.Get("k"); return err }, kv.ErrInvalid)
	assert.Panics(t, func() {
		_, _ = b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
			_, _ = tx.Get("k")
			_ = tx.Put("k", nil)
			panic("boom")
		})
	})
	assert.Equal(t, "<none>", b.value(t, "k"))
	_, err = b.Update(t.Context(), "k", func(raw) ([]byte, error) { return nil, nil }, kv.WithUpsert())
	require.NoError(t, err, "the turn was passed on")
}

func TestTransact_ReadOnly(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	at := b.put(t, "k", "1")
	b.costs(t, rpc("KV/Range", 1), func() {
		rev, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
			_, err := tx.Get("k")
			b.put(t, "k", "2")
			return err
		})
		require.NoError(t, err)
		assert.GreaterOrEqual(t, rev, at)
	})
	b.costs(t, none(), func() {
		rev, err := b.Transact(t.Context(), func(context.Context, *kv.Tx) error { return nil }, kv.WithOnce())
		require.NoError(t, err)
		assert.Zero(t, rev)
	})
	lost := errors.New("lost")
	guard := kv.NewGuard(lost, clientv3.Compare(clientv3.CreateRevision(b.dir+"held"), ">", 0))
	read := func(_ context.Context, tx *kv.Tx) error { _, err := tx.Get("k"); return err }
	_, err := b.Transact(t.Context(), read, kv.WithGuard(guard))
	require.ErrorIs(t, err, kv.ErrGuard)
	require.ErrorIs(t, err, lost)
	b.put(t, "held", "")
	b.costs(t, map[string]int{"KV/Range": 1, "KV/Txn": 1}, func() {
		_, err := b.Transact(t.Context(), read, kv.WithGuard(guard))
		require.NoError(t, err)
	})
}

func TestTransact_GuardRefusesCommit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "held", "")
	lost := errors.New("lost")
	guard := kv.NewGuard(lost, clientv3.Compare(clientv3.CreateRevision(b.dir+"held"), ">", 0))
	calls := 0
	_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
		calls++
		_, err := tx.Get("k")
		require.ErrorIs(t, err, kv.ErrNotFound)
		b.remove(t, "held")
		return tx.Put("k", nil)
	}, kv.WithGuard(guard))
	require.ErrorIs(t, err, kv.ErrGuard)
	require.ErrorIs(t, err, lost)
	assert.Equal(t, 1, calls)
	assert.Equal(t, "<none>", b.value(t, "k"))
}

func TestTransact_LeasesOfPuts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lease := b.lease(t)
	b.put(t, "read", "", clientv3.WithLease(lease))
	b.put(t, "unread", "", clientv3.WithLease(lease))
	b.put(t, "plain", "", clientv3.WithLease(lease))
	b.costs(t, map[string]int{"KV/Range": 1, "KV/Txn": 2, "Lease/LeaseGrant": 2}, func() {
		_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
			_, err := tx.Get("read")
			require.NoError(t, err)
			onFirst(tx, func() { b.put(t, "read", "changed", clientv3.WithLease(lease)) })
			return errors.Join(
				tx.Put("read", nil, kv.WithSameLease()), tx.Put("unread", nil, kv.WithSameLease()), tx.Put("absent", nil, kv.WithSameLease()),
				tx.Put("plain", nil), tx.Put("given", nil, kv.WithLease(lease)),
				tx.Put("short1", nil, kv.WithTTL(30*time.Second)), tx.Put("short2", nil, kv.WithTTL(30*time.Second)),
				tx.Put("kept", nil, kv.WithTTL(30*time.Second)), tx.Put("kept", []byte("2"), kv.WithSameLease()),
				tx.Put("long", nil, kv.WithTTL(time.Hour)),
			)
		})
		require.NoError(t, err)
	})
	assert.Equal(t, lease, b.leaseOf(t, "read"))
	assert.Equal(t, lease, b.leaseOf(t, "unread"))
	assert.Equal(t, lease, b.leaseOf(t, "given"))
	assert.Zero(t, b.leaseOf(t, "absent"))
	assert.Zero(t, b.leaseOf(t, "plain"))
	assert.NotZero(t, b.leaseOf(t, "short1"))
	assert.Equal(t, b.leaseOf(t, "short1"), b.leaseOf(t, "short2"), "one lease for all")
	assert.Equal(t, b.leaseOf(t, "short1"), b.leaseOf(t, "kept"))
	assert.NotEqual(t, b.leaseOf(t, "short1"), b.leaseOf(t, "long"))

	_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error { return tx.Put("k", nil, kv.WithLease(12345)) })
	require.ErrorContains(t, err, "lease not found")
}

// A lease that the transaction has got, and does not use in the end, is revoked.
func TestTransact_RevokesUnusedLeases(t *testing.T) {
	t.Parallel()
	b := privateBench(t, etcdtest.Start(t))
	for name, f := range map[string]kv.TxFunc{
		"the last attempt has no TTL": func(_ context.Context, tx *kv.Tx) error {
			_, _ = tx.Get("k")
			onFirst(tx, func() { b.put(t, "k", "") })
			if tx.Attempt() > 1 {
				return tx.Put("out", nil)
			}
			return tx.Put("out", nil, kv.WithTTL(time.Minute))
		},
		"the last attempt fails": func(_ context.Context, tx *kv.Tx) error {
			_, _ = tx.Get("k")
			onFirst(tx, func() { b.put(t, "k", "") })
			if tx.Attempt() > 1 {
				return errFunds
			}
			return tx.Put("out", nil, kv.WithTTL(time.Minute))
		},
	} {
		b.rpcs.Reset()
		_, _ = b.Transact(t.Context(), f)
		assert.Equal(t, 1, b.rpcs.Count("Lease/LeaseGrant"), name)
		leases, err := b.raw.Leases(t.Context())
		require.NoError(t, err)
		assert.Empty(t, leases.Leases, name)
	}
}

func TestTransact_RunsAgainAfterCompaction(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	b := privateBench(t, server)
	b.put(t, "a", "1")
	b.put(t, "b", "1")
	calls := 0
	_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
		calls++
		_, err := tx.Get("a")
		require.NoError(t, err)
		onFirst(tx, func() {
			b.put(t, "b", "2")
			server.Compact(b.put(t, "b", "3"))
		})
		if e, err := tx.Get("b"); err != nil {
			require.ErrorIs(t, err, kv.ErrCompacted)
		} else {
			assert.Equal(t, "3", string(e.Value))
		}
		return tx.Put("out", nil) // the error is ignored
	})
	require.NoError(t, err)
	assert.Equal(t, 2, calls)
}

func TestTransact_GivesUpAfter64Conflicts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	calls := 0
	_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
		calls++
		_, _ = tx.Get("k")
		b.put(t, "k", "")
		return tx.Put("out", nil)
	})
	require.ErrorIs(t, err, kv.ErrConflict)
	require.ErrorContains(t, err, b.dir+"k")
	assert.Equal(t, 64, calls)
	assert.EqualValues(t, 64, b.Stats().Conflicts)
	assert.Equal(t, "<none>", b.value(t, "out"))
}

// Transactions of one store that write the same keys do not conflict with each other, nor with
// updates.
func TestTransact_TakesTurnsInOneProcess(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var calls atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
					calls.Add(1)
					e, err := tx.Get("n")
					if err != nil && !errors.Is(err, kv.ErrNotFound) {
						return err
					}
					n, _ := strconv.Atoi(string(e.Value))
					return tx.Put("n", strconv.AppendInt(nil, int64(n)+1, 10))
				})
				assert.NoError(t, err)
			}
		})
		all.Go(func() {
			for range 10 {
				_, err := b.Update(t.Context(), "n", func(cur raw) ([]byte, error) {
					n, _ := strconv.Atoi(string(cur.Value))
					return strconv.AppendInt(nil, int64(n)+1, 10), nil
				}, kv.WithUpsert())
				assert.NoError(t, err)
			}
		})
	}
	all.Wait()
	assert.Equal(t, "160", b.value(t, "n"))
	assert.Less(t, b.Stats().Conflicts, uint64(16))
}

// raceToLeave lets two doctors who are on call leave at the same time, 30 times. leave must return
// errFunds to a doctor who would be the last one. One must then still be on call.
func raceToLeave(t *testing.T, leave func(tx *kv.Tx, doctor string) error, countOnCall func(b bench) int) {
	b := newBench(t)
	doctors := []string{"ada", "bob"}
	for round := range 30 {
		for _, doctor := range doctors {
			b.put(t, "oncall/"+doctor, "yes")
		}
		var wg sync.WaitGroup
		for _, doctor := range doctors {
			store := b.open() // does not share queues with the other store
			wg.Go(func() {
				_, err := store.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error { return leave(tx, doctor) })
				assert.True(t, err == nil || errors.Is(err, errFunds), "round %d, %s: %v", round, doctor, err)
			})
		}
		wg.Wait()
		assert.Equal(t, 1, countOnCall(b), "round %d", round)
	}
}

func TestTransact_WriteSkewByOverwriting(t *testing.T) {
	t.Parallel()
	raceToLeave(t, func(tx *kv.Tx, doctor string) error {
		both, err := tx.GetMany("oncall/ada", "oncall/bob")
		if err != nil {
			return err
		}
		for _, e := range both {
			if string(e.Value) != "yes" {
				return errFunds
			}
		}
		return tx.Put("oncall/"+doctor, []byte("no"))
	}, func(b bench) (n int) {
		for _, value := range []string{b.value(t, "oncall/ada"), b.value(t, "oncall/bob")} {
			if value == "yes" {
				n++
			}
		}
		return n
	})
}

// Leaving deletes a key, so that no key in the range becomes newer.
func TestTransact_WriteSkewByDeletionOverListing(t *testing.T) {
	t.Parallel()
	raceToLeave(t, func(tx *kv.Tx, doctor string) error {
		n, err := countListed(tx, "oncall/")
		if err != nil {
			return err
		}
		if n < 2 {
			return errFunds
		}
		return tx.Delete("oncall/" + doctor)
	}, func(b bench) int {
		n, err := b.Count(t.Context(), "oncall/")
		require.NoError(t, err)
		return int(n)
	})
}

// countListed returns the number of keys that a transaction lists below prefix.
func countListed(tx *kv.Tx, prefix string) (n int, err error) {
	for _, err := range tx.List(prefix) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// There are five seats. Each caller counts those that are taken, and takes a new one.
func TestTransact_PhantomsAreConflicts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var all sync.WaitGroup
	var taken, full atomic.Int64
	for g := range 12 {
		store := b.open()
		all.Go(func() {
			_, err := store.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
				n, err := countListed(tx, "seats/")
				if err != nil {
					return err
				}
				if n == 5 {
					return errFunds
				}
				return tx.Put(fmt.Sprintf("seats/%d", g), nil)
			})
			switch {
			case err == nil:
				taken.Add(1)
			case errors.Is(err, errFunds):
				full.Add(1)
			default:
				assert.NoError(t, err)
			}
		})
	}
	all.Wait()
	n, err := b.Count(t.Context(), "seats/")
	require.NoError(t, err)
	assert.EqualValues(t, 5, n)
	assert.EqualValues(t, 5, taken.Load())
	assert.EqualValues(t, 7, full.Load())
}
