package kv_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// The first attempt arrives late, and its repeat is refused. The function runs again only if the
// first attempt can no longer be applied. A key that did not exist, or a range, can return to its
// earlier state, and the attempt is then applied after all. The revision of a key does not return.
func TestTransact_RejectionIsFinalOnlyIfItStays(t *testing.T) {
	t.Parallel()
	get := func(tx *kv.Tx, keys ...string) error {
		for _, key := range keys {
			if _, err := tx.Get(key); err != nil && !errors.Is(err, kv.ErrNotFound) {
				return err
			}
		}
		return nil
	}
	list := func(tx *kv.Tx) error {
		for _, err := range tx.List("listed/") {
			if err != nil {
				return err
			}
		}
		return nil
	}
	type change = func(t *testing.T, b delayBench)
	put := func(key, value string) change {
		return func(t *testing.T, b delayBench) { t.Helper(); b.put(t, key, value) }
	}
	remove := func(key string) change { return func(t *testing.T, b delayBench) { t.Helper(); b.remove(t, key) } }
	both := func(one, two change) change {
		return func(t *testing.T, b delayBench) { t.Helper(); one(t, b); two(t, b) }
	}
	for name, test := range map[string]struct {
		f         func(tx *kv.Tx) error // in addition to overwriting "k", which it has read
		meanwhile change                // what another client writes
		undo      change                // how it restores the values
		final     bool
	}{
		"a key is created": {
			func(tx *kv.Tx) error { return get(tx, "absent", "present") },
			put("absent", ""), remove("absent"), false,
		},
		"a key is created in a range": {list, put("listed/new", ""), remove("listed/new"), false},
		"a key is created and another overwritten": {
			func(tx *kv.Tx) error { return get(tx, "absent", "present") },
			both(put("absent", ""), put("present", "theirs")), both(remove("absent"), put("present", "")), true,
		},
		"a key is created in a range and another overwritten": {
			func(tx *kv.Tx) error { return errors.Join(list(tx), get(tx, "present")) },
			both(put("listed/new", ""), put("present", "theirs")), both(remove("listed/new"), put("present", "")), true,
		},
		"a key is overwritten": {
			func(tx *kv.Tx) error { return get(tx, "present") }, put("present", "theirs"), put("present", ""), true,
		},
		"a key is deleted": {
			func(tx *kv.Tx) error { return get(tx, "present") }, remove("present"), put("present", ""), true,
		},
		"the written key and one in a range are overwritten": {
			list, both(put("listed/new", ""), put("k", "theirs")), remove("listed/new"), true,
		},
		// What follows the put decides. A deleted key would not show who deleted it.
		"a key that it deletes is deleted": {
			func(tx *kv.Tx) error { return errors.Join(get(tx, "before"), tx.Delete("before")) },
			remove("before"), put("before", ""), true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newDelayBench(t, etcdtest.Client)
			for _, key := range []string{"before", "k", "present"} {
				b.put(t, key, "old")
			}
			b.meets(func() { test.meanwhile(t, b) }, late)
			calls := 0
			rev, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
				calls++
				return errors.Join(get(tx, "k"), test.f(tx), tx.Put("k", []byte("mine")))
			})
			if !test.final {
				require.ErrorIs(t, err, kv.ErrUnknownOutcome)
				assert.False(t, errs.NotApplied(err))
				assert.Equal(t, 1, calls)
				assert.Equal(t, 2, b.post.sent, "attempts")
				assert.Equal(t, "old", b.value(t, "k"))
				test.undo(t, b)
				b.deliver(t)
				assert.Equal(t, "mine", b.value(t, "k"), "the first attempt was applied after all")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, 2, calls)
			assert.Equal(t, 3, b.post.sent, "attempts")
			assert.Equal(t, "mine", b.value(t, "k"))
			state := b.state(t)
			assert.Contains(t, state, fmt.Sprintf("mine at %d,", rev))
			test.undo(t, b)
			b.deliver(t)
			assert.Equal(t, state, b.state(t), "the first attempt was applied, too")
		})
	}
}

// A guard that has failed stays so. If nothing else can have refused the transaction, it was not
// applied.
func TestTransact_FailedGuardIsFinalAfterLostResponse(t *testing.T) {
	t.Parallel()
	b := newDelayBench(t, etcdtest.Client)
	b.put(t, "k", "old")
	held := kv.NewGuard(nil, clientv3.Compare(clientv3.ModRevision(b.dir+"lock"), "=", b.put(t, "lock", "")))
	b.meets(func() { b.put(t, "lock", "theirs") }, late)
	calls := 0
	_, err := b.Transact(t.Context(), func(_ context.Context, tx *kv.Tx) error {
		calls++
		_, err := tx.Get("k")
		_, absent := tx.Get("absent")
		assert.ErrorIs(t, absent, kv.ErrNotFound)
		return errors.Join(err, tx.Put("k", []byte("mine")))
	}, kv.WithGuard(held))
	require.ErrorIs(t, err, kv.ErrGuard)
	require.NotErrorIs(t, err, kv.ErrUnknownOutcome)
	assert.True(t, errs.NotApplied(err))
	assert.Equal(t, 1, calls)
	b.deliver(t)
	assert.Equal(t, "old", b.value(t, "k"))
}

// After every third conflict, Transact pauses with jitter. The pauses grow to at most 32 ms.
func TestTransact_PausesAfterEveryThirdConflict(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSimStore(t, "a")
		var began, ended []time.Time
		_, err := s.Transact(t.Context(), func(ctx context.Context, tx *kv.Tx) error {
			began = append(began, time.Now())
			if _, err := tx.Get("k"); err != nil {
				return err
			}
			if _, err := s.raw.Put(ctx, "k", "theirs"); err != nil {
				return err
			}
			ended = append(ended, time.Now())
			return tx.Put("out", nil)
		})
		require.ErrorIs(t, err, kv.ErrConflict)
		require.Len(t, ended, 64)
		var total time.Duration
		pauses := map[time.Duration]bool{}
		limit := time.Millisecond
		for i := range 63 {
			pause := began[i+1].Sub(ended[i]) - s.cluster.rtt
			if (i+1)%3 != 0 {
				require.Zero(t, pause, "conflict %d", i+1)
				continue
			}
			require.LessOrEqual(t, pause, limit, "conflict %d", i+1)
			limit = min(2*limit, 32*time.Millisecond)
			total += pause
			pauses[pause] = true
		}
		// The mean is 272 ms. Less than 20 ms has a probability of less than 1e-14.
		assert.Greater(t, total, 20*time.Millisecond)
		assert.Greater(t, len(pauses), 15, "jitter")
	})
}
