package kv_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

const requestBytes = 3 << 19 // etcd's default

func TestLimits_RejectLargeValueBeforeSending(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	big := make([]byte, requestBytes+1)
	rev := b.put(t, "k", "x")
	for name, write := range map[string]func() error{ //nolint:paralleltest // as above
		"put":    func() error { _, err := b.Put(t.Context(), "k", big); return err },
		"ttl":    func() error { _, err := b.Put(t.Context(), "k", big, kv.WithTTL(time.Minute)); return err },
		"once":   func() error { _, err := b.Put(t.Context(), "k", big, kv.WithOnce()); return err },
		"create": func() error { _, err := b.Create(t.Context(), "k2", big); return err },
		"replace": func() error {
			_, err := b.Replace(t.Context(), "k", big, rev)
			return err
		},
		"swap":        func() error { _, err := b.CompareAndSwap(t.Context(), "k", []byte("x"), big); return err },
		"swap, old":   func() error { _, err := b.CompareAndSwap(t.Context(), "k", big, []byte("x")); return err },
		"swap, both":  func() error { _, err := b.CompareAndSwap(t.Context(), "k", big[:1<<20], big[:1<<20]); return err },
		"delete, old": func() error { _, err := b.CompareAndDelete(t.Context(), "k", big); return err },
		"batch":       func() error { _, err := b.Batch(t.Context(), kv.OpPut("k", big)); return err },
		"txn": func() error {
			_, err := b.Txn(t.Context()).Then(clientv3.OpPut("k", string(big))).Commit()
			return err
		},
		"txn, in all": func() error {
			_, err := b.Txn(t.Context()).Then(clientv3.OpPut("k", string(big[:1<<20])), clientv3.OpPut("l", string(big[:1<<20]))).Commit()
			return err
		},
		"txn, compare": func() error {
			_, err := b.Txn(t.Context()).If(clientv3.Compare(clientv3.Value("k"), "=", string(big))).Then(clientv3.OpGet("k")).Commit()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b.refused(t, write, kv.ErrTooLarge, kv.ErrInvalid)
			assert.ErrorContains(t, write(), "1572864", "the limit is named")
		})
	}
	b.costs(t, rpc("KV/Range", 1), func() { // f has to be asked first
		_, err := b.Update(t.Context(), "k", func(raw) ([]byte, error) { return big, nil })
		require.ErrorIs(t, err, kv.ErrTooLarge)
	})
	assert.Equal(t, "x", b.value(t, "k"))
}

func TestLimits_AcceptValueBelowLimit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	fits := make([]byte, requestBytes-len(b.dir)-100)
	rev, err := b.Put(t.Context(), "put", fits)
	require.NoError(t, err)
	e, err := b.Get(t.Context(), "put")
	require.NoError(t, err)
	assert.Len(t, e.Value, len(fits))
	_, err = b.Replace(t.Context(), "put", fits[:len(fits)-200], rev)
	require.NoError(t, err)
	_, err = b.Batch(t.Context(), kv.OpPut("batch", fits))
	require.NoError(t, err)
	_, err = b.Txn(t.Context()).Then(clientv3.OpPut("txn", string(fits))).Commit()
	require.NoError(t, err)
}

// However long a value is, the error is the same, whoever finds it.
func TestLimits_HaveOneError(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lenient := b.open(kv.WithLimits(kv.Limits{RequestBytes: 64 << 20}))
	for _, size := range []int{requestBytes - 64, requestBytes - 20, requestBytes, requestBytes + 1, 2 << 20, 3 << 20, 16 << 20} {
		for name, s := range map[string]*kv.Store{"checked here": b.Store, "checked there": lenient} {
			_, err := s.Put(t.Context(), "k", make([]byte, size))
			require.ErrorIs(t, err, kv.ErrTooLarge, "%s: %d bytes", name, size)
			require.NotErrorIs(t, err, kv.ErrUnknownOutcome, "%s: %d bytes", name, size)
			assert.True(t, errs.NotApplied(err))
			assert.Less(t, len(err.Error()), 300)
		}
	}
	assert.Equal(t, "<none>", b.value(t, "k"))
}

func TestLimits_RejectLongKey(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	room := 4096 - len(b.dir) // the namespace counts
	_, err := b.Put(t.Context(), strings.Repeat("k", room), []byte("x"))
	require.NoError(t, err)
	long := strings.Repeat("k", room+1)
	for name, call := range map[string]func() error{ //nolint:paralleltest // as above
		"get":    func() error { _, err := b.Get(t.Context(), long); return err },
		"exists": func() error { _, err := b.Exists(t.Context(), long); return err },
		"put":    func() error { _, err := b.Put(t.Context(), long, nil); return err },
		"delete": func() error { _, err := b.Delete(t.Context(), long); return err },
		"update": func() error { _, err := b.Update(t.Context(), long, increment); return err },
		"batch":  func() error { _, err := b.Batch(t.Context(), kv.OpDelete(long)); return err },
		"txn":    func() error { _, err := b.Txn(t.Context()).Then(clientv3.OpPut(long, "")).Commit(); return err },
		"txn, compare": func() error {
			_, err := b.Txn(t.Context()).If(clientv3.Compare(clientv3.Version(long), "=", 0)).Then(clientv3.OpGet("k")).Commit()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b.refused(t, call, kv.ErrTooLarge, kv.ErrInvalid)
			assert.Less(t, len(call().Error()), 500, "the key is cut short")
		})
	}
	_, err = b.open(kv.WithLimits(kv.Limits{KeyBytes: 8192})).Put(t.Context(), long, nil)
	require.NoError(t, err, "the limit is an option")
}

func TestLimits_RejectKeysOfLongNamespace(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, length := range []int{4095 - len(b.dir), 4096 - len(b.dir), 5000} {
		s := b.Namespace(strings.Repeat("n", length))
		b.refused(t, func() error { _, err := s.Put(t.Context(), "k", nil); return err }, kv.ErrTooLarge)
	}
}

func TestLimits_AreConfigurable(t *testing.T) {
	t.Parallel()
	b := newBench(t, kv.WithLimits(kv.Limits{TxnOps: 200}))
	b.costs(t, rpc("KV/Txn", 1), func() { // the server does not agree, and its word is the same
		_, err := b.Txn(t.Context()).Then(manyGets(129)...).Commit()
		require.ErrorIs(t, err, kv.ErrTooLarge)
		assert.True(t, errs.NotApplied(err))
	})
	small := b.open(kv.WithLimits(kv.Limits{RequestBytes: 100}))
	b.refused(t, func() error { _, err := small.Put(t.Context(), "k", make([]byte, 100)); return err }, kv.ErrTooLarge)
}

// manyGets is n reads with very short keys.
func manyGets(n int) (ops []clientv3.Op) {
	for range n {
		ops = append(ops, clientv3.OpGet("k"))
	}
	return ops
}

func TestWithTTL_RejectsUnsupportedTTL(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, ttl := range []time.Duration{0, -1, -time.Hour, math.MinInt64, time.Nanosecond, time.Second - 1, math.MaxInt64} {
		b.refused(t, func() error { _, err := b.Put(t.Context(), "k", nil, kv.WithTTL(ttl)); return err }, kv.ErrInvalid)
		b.refused(t, func() error { _, err := b.Create(t.Context(), "k", nil, kv.WithTTL(ttl)); return err }, kv.ErrInvalid)
	}
	_, err := b.Put(t.Context(), "k", nil, kv.WithTTL(math.MaxInt64))
	require.ErrorIs(t, err, kv.ErrTooLarge)
}

// A lease is granted for nothing when the write behind it can be seen to be too large.
func TestLimits_RejectLargeGuardBeforeSending(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	var cmps []clientv3.Cmp
	for range 128 {
		cmps = append(cmps, clientv3.Compare(clientv3.Version("a"), "=", 0))
	}
	long := kv.WithGuard(kv.NewGuard(errOwner, cmps...))
	for name, write := range map[string]func() error{ //nolint:paralleltest // as above
		"put":       func() error { _, err := b.Put(t.Context(), "k", nil, long); return err },
		"put, ttl":  func() error { _, err := b.Put(t.Context(), "k", nil, long, kv.WithTTL(time.Minute)); return err },
		"put, once": func() error { _, err := b.Put(t.Context(), "k", nil, long, kv.WithOnce()); return err },
		"delete":    func() error { _, err := b.Delete(t.Context(), "k", long); return err },
		"transaction": func() error {
			_, err := b.Txn(t.Context()).Guard(kv.NewGuard(errOwner, cmps...)).Then(clientv3.OpGet("k")).Commit()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { b.refused(t, write, kv.ErrTooLarge) })
	}
}

func TestRetryPolicy_JSONRoundTrip(t *testing.T) {
	t.Parallel()
	p := kv.RetryPolicy{MaxAttempts: 5, BaseDelay: 50 * time.Millisecond, MaxDelay: 3 * time.Second}
	text, err := json.Marshal(p)
	require.NoError(t, err)
	assert.JSONEq(t, `{"maxAttempts":5,"baseDelay":"50ms","maxDelay":"3s"}`, string(text))
	var back kv.RetryPolicy
	require.NoError(t, json.Unmarshal(text, &back))
	assert.Equal(t, p, back)
	require.NoError(t, json.Unmarshal([]byte(`{}`), &back))
	assert.Zero(t, back)

	for _, bad := range []string{`{"attempts":3}`, `{"baseDelay":"5"}`, `{"maxDelay":"x"}`, `{"maxAttempts":"3"}`, `{"baseDelay":5}`, `[]`} {
		require.Error(t, json.Unmarshal([]byte(bad), &back), bad)
		require.ErrorIs(t, back.UnmarshalJSON([]byte(bad)), kv.ErrInvalid, bad)
	}
}

func TestRetryPolicy_ValidateRejectsInvalidFields(t *testing.T) {
	t.Parallel()
	require.NoError(t, kv.RetryPolicy{}.Validate())
	require.NoError(t, kv.RetryPolicy{BaseDelay: time.Minute}.Validate())
	for _, p := range []kv.RetryPolicy{{MaxAttempts: -1}, {BaseDelay: -1}, {MaxDelay: -1}, {BaseDelay: 2, MaxDelay: 1}} {
		require.ErrorIs(t, p.Validate(), kv.ErrInvalid, "%+v", p)
	}
	err := kv.RetryPolicy{MaxAttempts: -3, MaxDelay: -1}.Validate()
	require.ErrorContains(t, err, "-3")
	require.ErrorContains(t, err, "delay")
}
