package kv_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/decorate"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/kv"
)

// A key that begins with the namespace, or a slash, is another one below it. The error shows which.
func TestStore_ErrorsContainWholeKey(t *testing.T) {
	t.Parallel()
	s := etcdtest.Must(kv.New(etcdtest.Client(t), kv.WithNamespace("whole/app")))
	users := kv.NewTyped(s, "users", kv.JSON[user]())
	for want, call := range map[string]func() error{
		`kv: get "whole/app//x": key not found`:                                func() error { _, err := s.Get(t.Context(), "/x"); return err },
		`kv: get "whole/app/whole/app/x": key not found`:                       func() error { _, err := s.Get(t.Context(), "whole/app/x"); return err },
		`kv: get "whole/app/users/42": key not found`:                          func() error { _, err := users.Get(t.Context(), "42"); return err },
		`kv: list "whole/app/users/": invalid argument: WithLimit: -1 entries`: func() error { _, err := failed(users.List(t.Context(), kv.WithLimit(-1))); return err },
		`kv: batch: batch stopped after 0 operations: operation 0 on "whole/app/.etcdkit/x": invalid argument: .etcdkit/ belongs to the library`: func() error {
			return errOf(s.Batch(t.Context(), kv.OpDelete(".etcdkit/x")))
		},
	} {
		assert.EqualError(t, call(), want)
	}
}

func TestStore_ErrorsHaveOnePrefix(t *testing.T) {
	t.Parallel()
	cli := etcdtest.NewClient(t, []string{"127.0.0.1:1"}, hardened(t))
	s := etcdtest.Must(kv.New(cli, kv.WithNamespace("app")))
	for name, call := range map[string]func(ctx context.Context) error{
		"put once":      func(ctx context.Context) error { return errOf(s.Put(ctx, "k", nil, kv.WithOnce())) },
		"put ttl":       func(ctx context.Context) error { return errOf(s.Put(ctx, "k", nil, kv.WithTTL(time.Minute))) },
		"put short ttl": func(ctx context.Context) error { return errOf(s.Put(ctx, "k", nil, kv.WithTTL(time.Second))) },
		"batch ttl": func(ctx context.Context) error {
			return errOf(s.Batch(ctx, kv.OpPut("k", nil, kv.WithTTL(time.Minute))))
		},
		"update":         func(ctx context.Context) error { _, err := s.Update(ctx, "k", nothing); return err },
		"update, upsert": func(ctx context.Context) error { _, err := s.Update(ctx, "k", nothing, kv.WithUpsert()); return err },
	} {
		ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := call(ctx)
		stop()
		require.ErrorIs(t, err, kv.ErrUnavailable, name)
		assert.Equal(t, 1, strings.Count(err.Error(), "kv: "), "%s: %v", name, err)
		assert.Contains(t, err.Error(), `"app/k"`, name)
	}
}

func nothing(kv.Entry[[]byte]) ([]byte, error) { return nil, nil }

func TestStore_ClosedClientIsNamed(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t)
	s := etcdtest.Must(kv.New(cli, kv.WithNamespace("app")))
	require.NoError(t, cli.Close())
	_, err := s.Get(t.Context(), "k")
	require.EqualError(t, err, `kv: get "app/k": the client is closed`)
	require.ErrorIs(t, err, errs.Closed)
}

func TestTyped_DecodeErrorNamesExpectedType(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	type config struct {
		Every time.Duration `json:"every"`
		Users []user        `json:"users"`
	}
	typed := kv.NewTyped(b.Store, "", kv.JSON[config]())
	for stored, want := range map[string]string{
		`{"every":"correct-horse"}`:     `field "every": string where a duration is expected`,
		`{"every":12345.678}`:           `field "every": number where a duration is expected`,
		`{"users":[{"name":12345678}]}`: `field "users.name": number where string is expected`,
		`[12345678]`:                    `array where kv_test.config is expected`,
		`{"every":12345678`:             `syntax error at byte 17`,
	} {
		b.put(t, "k", stored)
		_, err := typed.Get(t.Context(), "k")
		require.ErrorIs(t, err, kv.ErrDecode)
		require.ErrorContains(t, err, ": "+want)
		assert.NotContains(t, err.Error(), "horse")
		assert.NotContains(t, err.Error(), "12345")
	}
}

// redactedText is a secret whose JSON does not show it.
type redactedText struct{ text string }

func (redactedText) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

func (h *redactedText) UnmarshalText(b []byte) error {
	h.text = string(b)
	return nil
}

func TestJSON_RejectsTypesThatHideTheirValue(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	type account struct {
		User     string
		Password redactedText
	}
	accounts := kv.NewTyped(b.Store, "", kv.JSON[account]())
	b.put(t, "ada", `{"User":"ada","Password":"correct-horse"}`)
	e, err := accounts.Get(t.Context(), "ada")
	require.NoError(t, err)
	assert.Equal(t, "correct-horse", e.Value.Password.text)

	_, put := accounts.Put(t.Context(), "ada", e.Value)
	_, update := accounts.Update(t.Context(), "ada", func(a *account) error { a.User = "eve"; return nil })
	_, whole := kv.NewTyped(b.Store, "", kv.JSON[[]redactedText]()).Put(t.Context(), "ada", nil)
	for _, err := range []error{put, update, whole} {
		require.ErrorIs(t, err, kv.ErrInvalid)
		assert.True(t, errs.NotApplied(err))
	}
	require.ErrorContains(t, put, `field "Password" is hidden in JSON`)
	require.ErrorContains(t, whole, "the value is hidden in JSON")
	assert.Contains(t, b.value(t, "ada"), "correct-horse")
}

// fakePutOnlyKV is a fake that implements a part of a KV.
type fakePutOnlyKV struct{ clientv3.KV }

func (fakePutOnlyKV) Put(context.Context, string, string, ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	return &clientv3.PutResponse{}, nil
}

func TestStore_FakeThatLacksMethodsIsInvalid(t *testing.T) {
	t.Parallel()
	for name, fake := range map[string]clientv3.KV{"value": fakePutOnlyKV{}, "pointer": &fakePutOnlyKV{}} {
		cli := clientv3.NewCtxClient(t.Context())
		cli.KV = fake
		s := etcdtest.Must(kv.New(cli))
		_, get := s.Get(t.Context(), "k")
		_, put := s.Put(t.Context(), "k", nil)
		_, create := s.Create(t.Context(), "k", nil)
		_, list := failed(s.List(t.Context(), "users/"))
		_, page := failed(s.List(t.Context(), "users/", kv.WithLimit(1)))
		for _, err := range []error{get, put, create, list, page} {
			require.ErrorIs(t, err, kv.ErrInvalid, name)
			require.ErrorContains(t, err, "KV", name)
			assert.True(t, errs.NotApplied(err), name)
		}
	}
}

func TestNew_RejectsClientWithoutKV(t *testing.T) {
	t.Parallel()
	s, err := kv.New(clientv3.NewCtxClient(t.Context()))
	require.EqualError(t, err, "kv: new: invalid argument: the client has no KV")
	assert.True(t, errs.NotApplied(err))
	assert.Nil(t, s)
}

func TestStore_PassesPanicOfKVOn(t *testing.T) {
	t.Parallel()
	cli := clientv3.NewCtxClient(t.Context())
	cli.KV = fakePanickingKV{}
	assert.PanicsWithValue(t, "mine", func() { _, _ = etcdtest.Must(kv.New(cli)).Get(t.Context(), "k") })
}

type fakePanickingKV struct{ clientv3.KV }

func (fakePanickingKV) Do(context.Context, clientv3.Op) (clientv3.OpResponse, error) { panic("mine") }

func TestWithOnce_RejectsClientWithoutLease(t *testing.T) {
	t.Parallel()
	cli := clientv3.NewCtxClient(t.Context())
	cli.KV = etcdtest.Client(t).KV
	s := etcdtest.Must(kv.New(cli, kv.WithNamespace(etcdtest.Prefix(t))))
	for _, o := range []kv.PutOption{kv.WithOnce(), kv.WithTTL(time.Second), kv.WithTTL(time.Hour)} {
		_, err := s.Put(t.Context(), "k", nil, o)
		require.ErrorIs(t, err, kv.ErrInvalid)
		require.ErrorContains(t, err, "the client has no Lease")
		assert.True(t, errs.NotApplied(err))
	}
}

func TestNamespace_DoesNotMultiplyRetries(t *testing.T) {
	t.Parallel()
	f := etcdtest.StartFakeKV(t, func(int) error { return status.Error(codes.Unavailable, "down") })
	for name, wrap := range map[string]func(clientv3.KV) clientv3.KV{
		"namespace":              func(k clientv3.KV) clientv3.KV { return kv.Namespace(k, "tenant") },
		"two namespaces":         func(k clientv3.KV) clientv3.KV { return kv.Namespace(kv.Namespace(k, "a"), "b") },
		"coalesced namespace":    func(k clientv3.KV) clientv3.KV { return kv.Coalesce(kv.Namespace(k, "a")) },
		"coalesced twice":        func(k clientv3.KV) clientv3.KV { return kv.Coalesce(kv.Coalesce(k)) },
		"namespace of coalesced": func(k clientv3.KV) clientv3.KV { return kv.Namespace(kv.Coalesce(k), "a") },
	} {
		cli := f.Client(t, hardened(t))
		decorate.Client(cli, retry.New(retry.Config{Client: cli}), false)
		shared, ok := cli.KV.(retry.EngineProvider)
		require.True(t, ok)
		cli.KV = wrap(cli.KV)
		wrapped, ok := cli.KV.(retry.EngineProvider)
		require.True(t, ok, name)
		assert.Same(t, shared.RetryEngine(), wrapped.RetryEngine(), name)
		before := f.Calls()
		_, err := etcdtest.Must(kv.New(cli, kv.WithRetry(kv.RetryPolicy{BaseDelay: time.Millisecond}))).Get(t.Context(), "k")
		require.ErrorIs(t, err, kv.ErrUnavailable, name)
		assert.Equal(t, 3, f.Calls()-before, name)
	}
}

func TestStore_PausesForRateLimit(t *testing.T) {
	t.Parallel()
	f := etcdtest.StartFakeKV(t, func(int) error { return status.Error(codes.ResourceExhausted, "rate limited") })
	s := etcdtest.Must(kv.New(f.Client(t, hardened(t)), kv.WithRetry(kv.RetryPolicy{BaseDelay: time.Millisecond})))
	_, err := failed(s.List(t.Context(), "a/", kv.WithLimit(4000)))
	require.ErrorIs(t, err, kv.ErrUnavailable)
	assert.Equal(t, 3, f.Calls(), "the same as of a single read")
}

func TestStore_LogsQuoteKeysOnce(t *testing.T) {
	t.Parallel()
	var log logBuffer
	s, stub := overFlakyServer(t, 1, kv.WithLogger(log.logger(slog.LevelDebug)), kv.WithNamespace("app"))
	_, err := s.Get(t.Context(), "a key")
	require.ErrorIs(t, err, kv.ErrNotFound)
	require.Equal(t, 2, stub.calls)
	assert.Contains(t, log.take(), `msg="etcd call is repeated" op=get key="app/a key" attempt=1 `)

	b := newBench(t, kv.WithLogger(log.logger(slog.LevelDebug)))
	_, err = b.Delete(t.Context(), "k")
	require.NoError(t, err)
	text := log.take()
	assert.Contains(t, text, `msg="etcd write" op=delete key=`)
	assert.NotContains(t, text, "value")
}

func TestCompareAndSwap_KeepsTheLease(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lease := b.lease(t)
	b.put(t, "k", "1", clientv3.WithLease(lease))
	b.put(t, "free", "1")
	b.costs(t, rpc("KV/Txn", 2), func() {
		for _, key := range []string{"k", "free"} {
			_, err := b.CompareAndSwap(t.Context(), key, []byte("1"), []byte("2"))
			require.NoError(t, err)
		}
	})
	assert.Equal(t, "2", b.value(t, "k"))
	assert.Equal(t, lease, b.leaseOf(t, "k"))
	assert.Zero(t, b.leaseOf(t, "free"))
	_, err := b.CompareAndSwap(t.Context(), "absent", []byte("1"), []byte("2"))
	conflict, ok := errors.AsType[*kv.ConflictError](err)
	require.True(t, ok, "%v", err)
	assert.Zero(t, conflict.Have)
}
