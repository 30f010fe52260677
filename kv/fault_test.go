package kv_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
)

// hardened makes a test's client what Open makes: the promises are tested over it and over a plain
// one.
func hardened(t *testing.T) func(*clientv3.Config) {
	return func(cfg *clientv3.Config) { require.NoError(t, wire.Harden(cfg)) }
}

func asIs(*clientv3.Config) {}

// overBoth runs a test over a hardened and over a plain client.
func overBoth(t *testing.T, f func(t *testing.T, how func(*clientv3.Config))) {
	t.Run("hardened client", func(t *testing.T) { t.Parallel(); f(t, hardened(t)) })
	t.Run("plain client", func(t *testing.T) { t.Parallel(); f(t, asIs) })
}

// proxyBench is a store behind a proxy that can disturb its connection, with a direct client that
// reads the actual state.
type proxyBench struct {
	*kv.Store

	proxy  *etcdtest.Proxy
	server *etcdtest.Server
	truth  *clientv3.Client
}

func newProxyBench(t *testing.T, how func(*clientv3.Config)) proxyBench {
	srv := etcdtest.Start(t)
	p := srv.Proxy(t)
	cli := etcdtest.NewClient(t, p.Endpoints(), how)
	s := proxyBench{Store: etcdtest.Must(kv.New(cli, kv.WithNamespace("app"))), proxy: p, server: srv, truth: srv.Client(t)}
	_, err := s.Get(t.Context(), "warm") // the connection stands
	require.ErrorIs(t, err, kv.ErrNotFound)
	_, err = s.Delete(t.Context(), "warm", kv.WithOnce()) // there is a slot
	require.NoError(t, err)
	return s
}

// state is what etcd has under key.
func (s proxyBench) state(t *testing.T, key string) (value string, version int64) {
	t.Helper()
	r, err := s.truth.Get(context.WithoutCancel(t.Context()), "app/"+key)
	require.NoError(t, err)
	if len(r.Kvs) == 0 {
		return "", 0
	}
	return string(r.Kvs[0].Value), r.Kvs[0].Version
}

// changed waits until the key is at a later revision than rev, or gone.
func (s proxyBench) changed(t *testing.T, key string, rev int64) {
	t.Helper()
	require.Eventually(t, func() bool {
		r, err := s.truth.Get(t.Context(), "app/"+key)
		return err == nil && (len(r.Kvs) == 0) == (rev != 0 && len(r.Kvs) == 0) && (len(r.Kvs) == 0 || r.Kvs[0].ModRevision > rev)
	}, 10*time.Second, 5*time.Millisecond)
}

// An answer that is lost must never be taken for a refusal, nor be made up for by sending an
// unconditional write again.
func TestStore_LostResponseOfPutIsUnknown(t *testing.T) {
	t.Parallel()
	ops := map[string]func(ctx context.Context, s *kv.Store) error{
		"put":    func(ctx context.Context, s *kv.Store) error { _, err := s.Put(ctx, "k", []byte("new")); return err },
		"delete": func(ctx context.Context, s *kv.Store) error { _, err := s.Delete(ctx, "old"); return err },
		"create": func(ctx context.Context, s *kv.Store) error { _, err := s.Create(ctx, "k", []byte("new")); return err },
		"compare and swap": func(ctx context.Context, s *kv.Store) error {
			_, err := s.CompareAndSwap(ctx, "old", []byte("1"), []byte("2"))
			return err
		},
		"txn": func(ctx context.Context, s *kv.Store) error {
			_, err := s.Txn(ctx).Then(clientv3.OpPut("k", "new")).Commit()
			return err
		},
		"batch": func(ctx context.Context, s *kv.Store) error {
			_, err := s.Batch(ctx, kv.OpPut("k", []byte("new")), kv.OpDelete("old"))
			return err
		},
	}
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		s := newProxyBench(t, how)
		for name, op := range ops {
			old, err := s.Put(t.Context(), "old", []byte("1"))
			require.NoError(t, err)
			_, err = s.Delete(t.Context(), "k")
			require.NoError(t, err)
			before := s.server.Metric("etcd_mvcc_put_total") + s.server.Metric("etcd_mvcc_delete_total")

			s.proxy.Blackhole(false, true)
			ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
			err = op(ctx, s.Store)
			stop()
			s.proxy.Heal()

			require.ErrorIs(t, err, kv.ErrUnknownOutcome, name)
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			assert.False(t, errs.NotApplied(err), name)
			if name != "delete" && name != "compare and swap" {
				s.changed(t, "k", 0)
				_, version := s.state(t, "k")
				assert.EqualValues(t, 1, version, name)
			} else {
				s.changed(t, "old", old)
			}
			after := s.server.Metric("etcd_mvcc_put_total") + s.server.Metric("etcd_mvcc_delete_total")
			applied := 1.0
			if name == "batch" {
				applied = 2
			}
			assert.InDelta(t, applied, after-before, 0.1, name)
		}
	})
}

// The connection breaks right after the write went out: no deadline is involved, and the answer
// never comes.
func TestStore_CutConnectionMakesWriteUnknown(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		s := newProxyBench(t, how)
		s.proxy.Hold(false, true)
		done := make(chan error, 1)
		go func() {
			_, err := s.Put(t.Context(), "k", []byte("v"))
			done <- err
		}()
		s.changed(t, "k", 0)
		s.proxy.Cut()
		s.proxy.Heal()
		err := <-done
		require.ErrorIs(t, err, kv.ErrUnknownOutcome)
		assert.Contains(t, err.Error(), `kv: put "app/k"`)
		_, version := s.state(t, "k")
		assert.EqualValues(t, 1, version, "the put was sent again")
	})
}

// settled runs op while answers are lost, meddles once its first attempt is applied, and lets the
// repeat through.
func (s proxyBench) settled(t *testing.T, applied func() bool, meddle func(), op func(ctx context.Context) (int64, error)) (int64, error) {
	t.Helper()
	s.proxy.Hold(false, true)
	type result struct {
		rev int64
		err error
	}
	done := make(chan result, 1)
	go func() {
		rev, err := op(t.Context())
		done <- result{rev, err}
	}()
	require.Eventually(t, applied, 10*time.Second, 5*time.Millisecond)
	if meddle != nil {
		meddle()
	}
	s.proxy.Cut()
	s.proxy.Heal()
	r := <-done
	return r.rev, r.err
}

func (s proxyBench) holds(t *testing.T, key, value string) func() bool {
	return func() bool {
		r, err := s.truth.Get(t.Context(), "app/"+key)
		return err == nil && (value == "" && len(r.Kvs) == 0 || len(r.Kvs) == 1 && string(r.Kvs[0].Value) == value)
	}
}

func TestReplace_ResolvesLostResponse(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		s := newProxyBench(t, how)
		start := func(key string) int64 {
			rev, err := s.Put(t.Context(), key, []byte("0"))
			require.NoError(t, err)
			return rev
		}
		t.Log("it is unknown when the key holds its value")
		{
			r := start("a")
			_, err := s.settled(t, s.holds(t, "a", "1"), nil, func(ctx context.Context) (int64, error) {
				return s.Replace(ctx, "a", []byte("1"), r)
			})
			require.ErrorIs(t, err, kv.ErrUnknownOutcome)
			_, version := s.state(t, "a")
			assert.EqualValues(t, 2, version)
		}
		t.Log("it is known with an operation slot")
		{
			r := start("b")
			rev, err := s.settled(t, s.holds(t, "b", "1"), nil, func(ctx context.Context) (int64, error) {
				return s.Replace(ctx, "b", []byte("1"), r, kv.WithOnce())
			})
			require.NoError(t, err)
			e, err := s.Get(t.Context(), "b")
			require.NoError(t, err)
			assert.Equal(t, e.ModRevision, rev)
			assert.EqualValues(t, 2, e.Version)
		}
		t.Log("and also when others have written since")
		{
			r := start("c")
			var ours int64
			rev, err := s.settled(t, s.holds(t, "c", "1"), func() {
				e, err := s.truth.Get(t.Context(), "app/c")
				require.NoError(t, err)
				ours = e.Kvs[0].ModRevision
				_, err = s.truth.Delete(t.Context(), "app/c")
				require.NoError(t, err)
				_, err = s.truth.Put(t.Context(), "app/c", "theirs")
				require.NoError(t, err)
			}, func(ctx context.Context) (int64, error) {
				return s.Replace(ctx, "c", []byte("1"), r, kv.WithOnce())
			})
			require.NoError(t, err)
			assert.Equal(t, ours, rev)
			value, _ := s.state(t, "c")
			assert.Equal(t, "theirs", value)
		}
	})
}

// The request is delayed, the connection breaks, and another client writes. Whether the request
// arrives late or not at all, the result must be a conflict, and the other value must remain.
func TestReplace_OvertakenWriteIsConflict(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		for _, opts := range [][]kv.PutOption{nil, {kv.WithOnce()}} {
			s := newProxyBench(t, how)
			r, err := s.Put(t.Context(), "k", []byte("0"))
			require.NoError(t, err)
			up := make(chan struct{}, 1)
			s.proxy.OnUp(func([]byte) {
				select {
				case up <- struct{}{}:
				default:
				}
			})
			s.proxy.Hold(true, false)
			done := make(chan error, 1)
			go func() {
				_, err := s.Replace(t.Context(), "k", []byte("mine"), r, opts...)
				done <- err
			}()
			<-up
			_, err = s.truth.Put(t.Context(), "app/k", "theirs")
			require.NoError(t, err)
			s.proxy.Cut()
			s.proxy.Heal()
			err = <-done
			var conflict *kv.ConflictError
			require.ErrorAs(t, err, &conflict)
			assert.True(t, errs.NotApplied(err))
			value, _ := s.state(t, "k")
			assert.Equal(t, "theirs", value)
		}
	})
}

func TestWithOnce_MakesEveryOutcomeKnown(t *testing.T) {
	t.Parallel()
	type test struct {
		applied string // what the key holds once the first attempt took effect
		op      func(ctx context.Context, s *kv.Store) (int64, error)
	}
	tests := map[string]test{
		"put": {"1", func(ctx context.Context, s *kv.Store) (int64, error) {
			return s.Put(ctx, "k", []byte("1"), kv.WithOnce())
		}},
		"delete": {"", func(ctx context.Context, s *kv.Store) (int64, error) { return s.Delete(ctx, "k", kv.WithOnce()) }},
		"delete prefix": {"", func(ctx context.Context, s *kv.Store) (int64, error) {
			n, rev, err := s.DeletePrefix(ctx, "", kv.WithOnce())
			assert.EqualValues(t, 1, n)
			return rev, err
		}},
		"batch": {"1", func(ctx context.Context, s *kv.Store) (int64, error) {
			return s.Batch(ctx, kv.OpPut("k", []byte("1"), kv.WithOnce()))
		}},
	}
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		s := newProxyBench(t, how)
		for name, test := range tests {
			_, _, err := s.DeletePrefix(t.Context(), "")
			require.NoError(t, err)
			_, err = s.Put(t.Context(), "k", []byte("0"), kv.WithOnce())
			require.NoError(t, err, name)
			rev, err := s.settled(t, s.holds(t, "k", test.applied), nil, func(ctx context.Context) (int64, error) { return test.op(ctx, s.Store) })
			require.NoError(t, err, name)
			assert.Positive(t, rev, name)
			if test.applied != "" {
				_, version := s.state(t, "k")
				assert.EqualValues(t, 2, version, name)
			}
		}
	})
}

func TestWithOnce_MakesUpdateKnown(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		s := newProxyBench(t, how)
		_, err := s.Put(t.Context(), "n", []byte("0"))
		require.NoError(t, err)
		calls := 0
		applied := make(chan struct{})
		go func() {
			defer close(applied)
			assert.Eventually(t, s.holds(t, "n", "1"), 10*time.Second, 5*time.Millisecond)
			s.proxy.Cut()
			s.proxy.Heal()
		}()
		e, err := s.Update(t.Context(), "n", func(cur kv.Entry[[]byte]) ([]byte, error) {
			calls++
			if calls == 1 {
				s.proxy.Hold(false, true) // the answer to the write will not come
			}
			return append(cur.Value[:0:0], cur.Value[0]+1), nil
		}, kv.WithOnce())
		<-applied
		require.NoError(t, err)
		assert.Equal(t, "1", string(e.Value))
		value, version := s.state(t, "n")
		assert.Equal(t, "1", value)
		assert.EqualValues(t, 2, version)
		assert.Equal(t, 1, calls)
	})
}

// An absent key can become absent again, so a repeated Create could bring back a key that another
// client has deleted.
func TestWithOnce_CreateDoesNotRecreateDeletedKey(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		s := newProxyBench(t, how)
		rev, err := s.settled(t, s.holds(t, "k", "mine"), func() {
			_, err := s.truth.Delete(t.Context(), "app/k")
			require.NoError(t, err)
		}, func(ctx context.Context) (int64, error) { return s.Create(ctx, "k", []byte("mine"), kv.WithOnce()) })
		require.NoError(t, err)
		assert.Positive(t, rev)
		_, version := s.state(t, "k")
		assert.Zero(t, version, "the deleted key came back")
	})
}

// The first attempt never arrives; its repeat finds the key there, and says so for good: a late
// arrival changes nothing.
func TestWithOnce_RejectedCreateIsNotApplied(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		s := newProxyBench(t, how)
		s.proxy.Blackhole(true, false)
		done := make(chan error, 1)
		go func() {
			_, err := s.Create(t.Context(), "k", []byte("mine"), kv.WithOnce())
			done <- err
		}()
		_, err := s.truth.Put(t.Context(), "app/k", "theirs")
		require.NoError(t, err)
		s.proxy.Heal()
		require.ErrorIs(t, <-done, kv.ErrExists)
		value, version := s.state(t, "k")
		assert.Equal(t, "theirs", value)
		assert.EqualValues(t, 1, version)
	})
}

func TestStore_WriteWhileEtcdIsDownIsNotApplied(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		s := newProxyBench(t, how)
		s.server.Kill()
		s.proxy.Refuse()
		s.proxy.Cut()
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, err := s.Get(ctx, "warm") // the client has noticed
		require.Error(t, err)
		for name, opts := range map[string][]kv.PutOption{"put": nil, "guarded put": {kv.WithGuard(kv.NewGuard(nil, clientv3.Compare(clientv3.Version("g"), "=", 0)))}} {
			ctx, stop := context.WithTimeout(t.Context(), time.Second)
			_, err := s.Put(ctx, "k", []byte("v"), opts...)
			stop()
			require.ErrorIs(t, err, kv.ErrUnavailable, name)
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			require.NotErrorIs(t, err, kv.ErrUnknownOutcome, name)
			assert.True(t, errs.NotApplied(err), name)
			assert.Contains(t, err.Error(), "connection refused", name)
			assert.Contains(t, err.Error(), s.proxy.Endpoint(), name)
		}
	})
}

func TestStore_DefaultTimeoutEndsCall(t *testing.T) {
	t.Parallel()
	p := etcdtest.NewProxy(t, "http://127.0.0.1:1")
	p.Refuse()
	s := etcdtest.Must(kv.New(etcdtest.NewClient(t, p.Endpoints()), kv.WithTimeouts(300*time.Millisecond, 400*time.Millisecond)))
	ctx := context.WithoutCancel(t.Context())
	_, err := s.Get(ctx, "k")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Contains(t, err.Error(), "default timeout 300ms")
	assert.Contains(t, err.Error(), "connection refused")
	_, err = s.Put(ctx, "k", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Contains(t, err.Error(), "default timeout 400ms")
	_, err = s.Put(ctx, "k", nil, kv.WithOnce())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Contains(t, err.Error(), "default timeout 400ms")
	_, err = s.Update(ctx, "k", func(cur kv.Entry[[]byte]) ([]byte, error) { return cur.Value, nil }, kv.WithUpsert())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Contains(t, err.Error(), "default timeout 400ms")
}

// What a server or a proxy answers decides whether a write may be sent again. Client/v3 sends
// Canceled and DeadlineExceeded a hundred times.
func TestStore_WriteIsSentOnceOnAnyError(t *testing.T) {
	t.Parallel()
	for _, code := range []codes.Code{codes.Canceled, codes.DeadlineExceeded, codes.Internal, codes.Unavailable, codes.Unknown, codes.Aborted} {
		overBothNamed(t, code.String(), func(t *testing.T, how func(*clientv3.Config)) {
			f := etcdtest.StartFakeKV(t, func(int) error { return status.Error(code, "made up") })
			s := etcdtest.Must(kv.New(f.Client(t, how)))
			ops := map[string]func() error{
				"put":    func() error { _, err := s.Put(t.Context(), "k", nil); return err },
				"delete": func() error { _, err := s.Delete(t.Context(), "k"); return err },
				"create": func() error { _, err := s.Create(t.Context(), "k", nil); return err },
			}
			for name, op := range ops {
				before := f.Calls()
				err := op()
				require.ErrorIs(t, err, kv.ErrUnknownOutcome, name)
				assert.False(t, errs.NotApplied(err))
				assert.Equal(t, 1, f.Calls()-before, name)
			}
		})
	}
}

func overBothNamed(t *testing.T, name string, f func(t *testing.T, how func(*clientv3.Config))) {
	t.Run(name, func(t *testing.T) { t.Parallel(); overBoth(t, f) })
}

func TestStore_RetriesWriteRejectedBeforeProposal(t *testing.T) {
	t.Parallel()
	for _, refusal := range []error{rpctypes.ErrGRPCRequestTooManyRequests, rpctypes.ErrGRPCNoLeader} {
		overBothNamed(t, refusal.Error(), func(t *testing.T, how func(*clientv3.Config)) {
			f := etcdtest.StartFakeKV(t, func(n int) error {
				if n <= 3 {
					return refusal
				}
				return nil
			})
			s := etcdtest.Must(kv.New(f.Client(t, how)))
			rev, err := s.Put(t.Context(), "k", nil)
			require.NoError(t, err)
			assert.EqualValues(t, 4, rev)
			assert.Equal(t, 4, f.Calls())
			assert.EqualValues(t, 3, s.Stats().Retries)
		})
	}
}

func TestStore_RetriesReads(t *testing.T) {
	t.Parallel()
	for _, code := range []codes.Code{codes.Unavailable, codes.Internal, codes.Aborted} {
		f := etcdtest.StartFakeKV(t, func(int) error { return status.Error(code, "made up") })
		s := etcdtest.Must(kv.New(f.Client(t, hardened(t)), kv.WithRetry(kv.RetryPolicy{MaxAttempts: 3, BaseDelay: time.Millisecond})))
		_, err := s.Get(t.Context(), "k")
		require.ErrorIs(t, err, kv.ErrUnavailable)
		assert.Equal(t, 3, f.Calls())
	}
}

func TestStore_BudgetLimitsRetries(t *testing.T) {
	t.Parallel()
	f := etcdtest.StartFakeKV(t, func(int) error { return rpctypes.ErrGRPCTimeout })
	s := etcdtest.Must(kv.New(f.Client(t, hardened(t)), kv.WithRetry(kv.RetryPolicy{MaxAttempts: 3, BaseDelay: time.Millisecond})))
	const calls = 500
	for range calls {
		_, err := s.Get(t.Context(), "k")
		require.Error(t, err)
	}
	assert.LessOrEqual(t, f.Calls(), calls+calls/10+200)
	assert.Greater(t, f.Calls(), calls+calls/20)
}

// The server applies a put and then finds that it is full: "database space exceeded" says nothing
// about the put.
func TestStore_FullDatabaseMakesOutcomeUnknown(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, etcdtest.WithFlags("--quota-backend-bytes=16777216"))
	s := etcdtest.Must(kv.New(srv.Client(t, hardened(t))))
	value := make([]byte, 512<<10)
	type result struct {
		key string
		err error
	}
	results := make(chan result)
	const parallel, each = 16, 6
	for w := range parallel {
		go func() {
			for i := range each {
				key := fmt.Sprintf("k-%d-%d", w, i)
				_, err := s.Put(t.Context(), key, value)
				results <- result{key, err}
			}
		}()
	}
	full := 0
	for range parallel * each {
		r := <-results
		_, err := s.Get(t.Context(), r.key)
		there := err == nil
		switch {
		case r.err == nil:
			assert.True(t, there, r.key)
		case errors.Is(r.err, rpctypes.ErrNoSpace):
			full++
			assert.ErrorIs(t, r.err, kv.ErrUnknownOutcome)
			assert.False(t, errs.NotApplied(r.err))
		default:
			assert.True(t, errors.Is(r.err, kv.ErrUnknownOutcome) || !there, r.err)
		}
	}
	assert.Positive(t, full, "the database did not fill up")
}

func TestStore_ClosedClientFailsCallsInFlight(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		cli := etcdtest.Client(t, how)
		s := etcdtest.Must(kv.New(cli, kv.WithNamespace(etcdtest.Prefix(t))))
		_, err := s.Put(t.Context(), "k", nil)
		require.NoError(t, err)
		require.NoError(t, ignoreCanceled(cli.Close()))
		_, err = s.Get(t.Context(), "k")
		require.ErrorIs(t, err, errs.Closed)
		_, err = s.Put(t.Context(), "k", nil)
		require.ErrorIs(t, err, errs.Closed)
		assert.True(t, errs.NotApplied(err))
	})
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func TestStore_CanceledContextIsNotUnavailable(t *testing.T) {
	t.Parallel()
	s := newProxyBench(t, hardened(t))
	s.proxy.Hold(false, true)
	t.Cleanup(s.proxy.Heal)
	why := errors.New("the user went away")
	ctx, stop := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Get(ctx, "k")
		done <- err
	}()
	stop(why)
	err := <-done
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, why)
	assert.NotErrorIs(t, err, kv.ErrUnavailable)
}

func TestStore_TimeoutNamesMember(t *testing.T) {
	t.Parallel()
	s := newProxyBench(t, hardened(t))
	s.proxy.Hold(true, false)
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	_, err := s.Put(ctx, "k", nil)
	require.ErrorIs(t, err, kv.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, ": no answer from "+strings.TrimPrefix(s.proxy.Endpoint(), "http://"))
}
