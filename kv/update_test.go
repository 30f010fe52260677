package kv_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// raw is an entry as Update gives it to its function.
type raw = kv.Entry[[]byte]

// increment adds one to a decimal number.
func increment(cur raw) ([]byte, error) {
	n, err := strconv.Atoi(string(cur.Value))
	if err != nil {
		return nil, err
	}
	return strconv.AppendInt(nil, int64(n)+1, 10), nil
}

// observedContext is a context that reports when a caller waits for its end.
type observedContext struct {
	context.Context

	once    sync.Once
	waiting chan struct{}
}

func observe(ctx context.Context) *observedContext {
	return &observedContext{Context: ctx, waiting: make(chan struct{})}
}

func (w *observedContext) Done() <-chan struct{} {
	w.once.Do(func() { close(w.waiting) })
	return w.Context.Done()
}

// withPatience is a context with a deadline that is far off, so that Update makes none of its own.
func withPatience(t *testing.T) context.Context {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(stop)
	return ctx
}

func TestUpdate_ReturnsNewEntry(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	created := b.put(t, "k", "41")
	var got raw
	b.costs(t, map[string]int{"KV/Range": 1, "KV/Txn": 1}, func() {
		var err error
		got, err = b.Update(t.Context(), "k", func(cur raw) ([]byte, error) {
			assert.Equal(t, raw{Key: "k", Value: []byte("41"), CreateRevision: created, ModRevision: created, Version: 1}, cur)
			return increment(cur)
		})
		require.NoError(t, err)
	})
	stands, err := b.Get(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, stands, got)
	assert.Equal(t, "42", string(got.Value))

	got, err = b.Namespace("inner").Update(t.Context(), "k", func(raw) ([]byte, error) { return nil, nil }, kv.WithUpsert())
	require.NoError(t, err)
	assert.Equal(t, "k", got.Key)
	assert.Empty(t, b.value(t, "inner/k"))
}

func TestUpdate_AbsentKeyReturnsErrNotFound(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.costs(t, rpc("KV/Range", 1), func() {
		got, err := b.Update(t.Context(), "k", func(raw) ([]byte, error) {
			t.Error("there is nothing to update")
			return nil, nil
		})
		require.ErrorIs(t, err, kv.ErrNotFound)
		assert.Zero(t, got)
	})
}

func TestUpdate_WithUpsertCreatesKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	add := func(cur raw) ([]byte, error) {
		if cur.ModRevision == 0 {
			assert.Equal(t, raw{Key: "k"}, cur)
			return []byte("1"), nil
		}
		return increment(cur)
	}
	first, err := b.Update(t.Context(), "k", add, kv.WithUpsert())
	require.NoError(t, err)
	assert.Equal(t, raw{Key: "k", Value: []byte("1"), CreateRevision: first.ModRevision, ModRevision: first.ModRevision, Version: 1}, first)
	second, err := b.Update(t.Context(), "k", add, kv.WithUpsert())
	require.NoError(t, err)
	assert.Equal(t, raw{Key: "k", Value: []byte("2"), CreateRevision: first.ModRevision, ModRevision: second.ModRevision, Version: 2}, second)
}

func TestUpdate_OvertakenUpsertSeesCreatedKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var seen []string
	_, err := b.Update(t.Context(), "k", func(cur raw) ([]byte, error) {
		seen = append(seen, string(cur.Value))
		if len(seen) == 1 {
			b.put(t, "k", "theirs")
		}
		return append([]byte("mine and "), cur.Value...), nil
	}, kv.WithUpsert())
	require.NoError(t, err)
	assert.Equal(t, []string{"", "theirs"}, seen)
	assert.Equal(t, "mine and theirs", b.value(t, "k"))
}

func TestUpdate_RetriesOnFoundState(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "1")
	meddle := []func(){
		func() { b.put(t, "k", "10") },
		func() { b.remove(t, "k"); b.put(t, "k", "10") }, // the same value, another life
	}
	calls := 0
	b.costs(t, map[string]int{"KV/Range": 1, "KV/Txn": 3}, func() {
		got, err := b.Update(t.Context(), "k", func(cur raw) ([]byte, error) {
			calls++
			if calls <= len(meddle) {
				meddle[calls-1]()
			}
			return increment(cur)
		})
		require.NoError(t, err)
		assert.Equal(t, "11", string(got.Value))
		assert.EqualValues(t, 2, got.Version)
	})
	assert.Equal(t, 3, calls)
	assert.EqualValues(t, 2, b.Stats().Conflicts)
}

func TestUpdate_DeletedKeyReturnsErrNotFound(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "1")
	_, err := b.Update(t.Context(), "k", func(cur raw) ([]byte, error) {
		b.remove(t, "k")
		return increment(cur)
	})
	require.ErrorIs(t, err, kv.ErrNotFound)
	assert.Equal(t, "<none>", b.value(t, "k"))
}

func TestUpdate_ErrSkipUpdateKeepsKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rev := b.put(t, "k", "x")
	b.costs(t, rpc("KV/Range", 1), func() {
		got, err := b.Update(t.Context(), "k", func(raw) ([]byte, error) {
			return []byte("not written"), errors.Join(errors.New("no need"), kv.ErrSkipUpdate)
		})
		require.NoError(t, err)
		assert.Equal(t, raw{Key: "k", Value: []byte("x"), CreateRevision: rev, ModRevision: rev, Version: 1}, got)
	})
	got, err := b.Update(t.Context(), "absent", func(raw) ([]byte, error) { return nil, kv.ErrSkipUpdate }, kv.WithUpsert())
	require.NoError(t, err)
	assert.Equal(t, raw{Key: "absent"}, got)
	assert.Equal(t, "<none>", b.value(t, "absent"))
}

func TestUpdate_ReturnsErrorOfFunction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "x")
	_, err := b.Update(t.Context(), "k", func(raw) ([]byte, error) { return nil, errNoMore })
	require.ErrorIs(t, err, errNoMore)
	require.EqualError(t, err, `kv: update "`+b.dir+`k": the user has gone home`)
	assert.True(t, errs.NotApplied(err))
	assert.Equal(t, "x", b.value(t, "k"))
}

func TestUpdate_KeepsLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lease := b.lease(t)
	b.put(t, "k", "1", clientv3.WithLease(lease))
	got, err := b.Update(t.Context(), "k", increment)
	require.NoError(t, err)
	assert.Equal(t, lease, got.Lease)
	assert.Equal(t, lease, b.leaseOf(t, "k"))

	got, err = b.Update(t.Context(), "k", increment, kv.WithoutLease())
	require.NoError(t, err)
	assert.Zero(t, got.Lease)
	assert.Zero(t, b.leaseOf(t, "k"))
	assert.Equal(t, "3", b.value(t, "k"))
}

func TestUpdate_ExpiredKeyReturnsErrNotFound(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lease := b.lease(t)
	b.put(t, "k", "1", clientv3.WithLease(lease))
	_, err := b.Update(t.Context(), "k", func(cur raw) ([]byte, error) {
		_, err := b.raw.Revoke(t.Context(), lease)
		require.NoError(t, err)
		return increment(cur)
	})
	require.ErrorIs(t, err, kv.ErrNotFound)
}

// Callers of one process take turns, and each goes on from what the last one wrote.
func TestUpdate_QueuedUpdatesCostOneRPC(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "0")
	const goroutines, each = 32, 25
	other := b.Namespace("").Namespace("") // a store made from another takes part
	b.rpcs.Reset()
	var wg sync.WaitGroup
	for i := range goroutines {
		s := []*kv.Store{b.Store, other}[i%2]
		wg.Go(func() {
			for range each {
				_, err := s.Update(t.Context(), "k", increment)
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, strconv.Itoa(goroutines*each), b.value(t, "k"))
	assert.LessOrEqual(t, float64(b.rpcs.Total()), 1.05*goroutines*each, "%v", b.rpcs.Counts())
	assert.Zero(t, b.Stats().Conflicts)
}

func TestUpdate_TwoClientsLoseNoUpdate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "0")
	const goroutines, each = 4, 10
	var wg sync.WaitGroup
	for range 2 {
		s := b.open() // takes turns with itself alone
		for range goroutines {
			wg.Go(func() {
				for range each {
					_, err := s.Update(t.Context(), "k", increment)
					assert.NoError(t, err)
				}
			})
		}
	}
	wg.Wait()
	assert.Equal(t, strconv.Itoa(2*goroutines*each), b.value(t, "k"))
}

func TestUpdate_DifferentKeysDoNotWait(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "a", "1")
	b.put(t, "b", "1")
	_, err := b.Update(t.Context(), "a", func(cur raw) ([]byte, error) {
		_, err := b.Update(t.Context(), "b", increment) // would never return
		require.NoError(t, err)
		return increment(cur)
	})
	require.NoError(t, err)
}

func TestUpdate_PanicReleasesQueue(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "1")
	assert.PanicsWithValue(t, "boom", func() {
		_, _ = b.Update(t.Context(), "k", func(raw) ([]byte, error) { panic("boom") })
	})
	_, err := b.Update(t.Context(), "k", increment)
	require.NoError(t, err)
	assert.Equal(t, "2", b.value(t, "k"))
}

// held runs an Update of "k" whose function waits until release is called, which returns when
// Update has.
func held(t *testing.T, b bench, value string) (release func()) {
	t.Helper()
	inside, free, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_, err := b.Update(t.Context(), "k", func(raw) ([]byte, error) {
			close(inside)
			<-free
			return []byte(value), nil
		})
		assert.NoError(t, err)
	}()
	<-inside
	return func() {
		close(free)
		<-done
	}
}

func TestUpdate_ContextEndsQueueWait(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "1")
	release := held(t, b, "2")
	defer release()

	ctx, cancel := context.WithCancelCause(withPatience(t))
	w := observe(ctx)
	go func() {
		<-w.waiting
		cancel(errNoMore)
	}()
	_, err := b.Update(w, "k", func(raw) ([]byte, error) {
		t.Error("it was not its turn")
		return nil, nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, errNoMore)
	assert.True(t, errs.NotApplied(err))
}

// queued starts an Update that waits behind the one that release ends, and returns its result when
// that has ended.
func queued(t *testing.T, b bench, release func(), f func(raw) ([]byte, error), o ...kv.UpdateOption) (raw, error) {
	t.Helper()
	w := observe(withPatience(t))
	var got raw
	var err error
	var wg sync.WaitGroup
	wg.Go(func() { got, err = b.Update(w, "k", f, o...) })
	<-w.waiting
	release()
	wg.Wait()
	return got, err
}

func TestUpdate_AcceptsFunctionErrorOnFreshStateOnly(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "0")
	var seen []string
	got, err := queued(t, b, held(t, b, "remembered"), func(cur raw) ([]byte, error) {
		seen = append(seen, string(cur.Value))
		if string(cur.Value) == "remembered" {
			b.put(t, "k", "changed by another client")
			return nil, errNoMore
		}
		return []byte("done"), nil
	})
	require.NoError(t, err)
	assert.Equal(t, []string{"remembered", "changed by another client"}, seen)
	assert.Equal(t, "done", string(got.Value))
}

func TestUpdate_AcceptsFunctionErrorOnceConfirmed(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]error{"an error": errNoMore, "a skip": kv.ErrSkipUpdate} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.put(t, "k", "0")
			calls := 0
			got, err := queued(t, b, held(t, b, "remembered"), func(raw) ([]byte, error) {
				calls++
				return nil, refusal
			})
			if errors.Is(refusal, kv.ErrSkipUpdate) {
				require.NoError(t, err)
				assert.Equal(t, "remembered", string(got.Value))
			} else {
				require.ErrorIs(t, err, refusal)
			}
			assert.Equal(t, 2, calls)
		})
	}
}

func TestUpdate_RereadsKeyKnownAsAbsent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "0")
	inside, free := make(chan struct{}), make(chan struct{})
	go func() {
		_, err := b.Update(t.Context(), "k", func(cur raw) ([]byte, error) {
			close(inside)
			<-free
			b.remove(t, "k")
			return increment(cur)
		})
		assert.ErrorIs(t, err, kv.ErrNotFound)
	}()
	<-inside
	got, err := queued(t, b, func() { close(free) }, func(cur raw) ([]byte, error) {
		return append(cur.Value, "1"...), nil
	}, kv.WithUpsert())
	require.NoError(t, err)
	assert.Equal(t, "1", string(got.Value))
	assert.EqualValues(t, 1, got.Version)
}

// What a caller does with the bytes that Update has given him is his own affair.
func TestUpdate_NextUpdateDoesNotShareValue(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "0")
	inside, free := make(chan struct{}), make(chan struct{})
	changed := make(chan struct{})
	go func() {
		defer close(changed)
		got, err := b.Update(t.Context(), "k", func(raw) ([]byte, error) {
			close(inside)
			<-free
			return []byte("counted"), nil
		})
		assert.NoError(t, err)
		clear(got.Value)
	}()
	<-inside
	_, err := queued(t, b, func() { close(free) }, func(cur raw) ([]byte, error) {
		<-changed
		return append([]byte("re"), cur.Value...), nil
	})
	require.NoError(t, err)
	assert.Equal(t, "recounted", b.value(t, "k"))
}

func TestUpdate_GivesUpAfter64Conflicts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "x")
	calls := 0
	_, err := b.Update(withPatience(t), "k", func(raw) ([]byte, error) {
		calls++
		b.put(t, "k", "theirs")
		return []byte("mine"), nil
	})
	require.ErrorIs(t, err, kv.ErrConflict)
	assert.True(t, errs.NotApplied(err))
	assert.Equal(t, 64, calls)
	assert.EqualValues(t, 64, b.Stats().Conflicts)
	assert.Equal(t, "theirs", b.value(t, "k"))
}

func TestUpdate_GivesUpWithContext(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "k", "x")
	ctx, cancel := context.WithCancelCause(withPatience(t))
	_, err := b.Update(ctx, "k", func(raw) ([]byte, error) {
		b.put(t, "k", "theirs")
		if b.Stats().Conflicts == 2 {
			cancel(errNoMore)
		}
		return []byte("mine"), nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, errNoMore)
	assert.Equal(t, "theirs", b.value(t, "k"))
}
