package decorate_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/decorate"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// kvCalls are the ways to reach the server through a KV.
func kvCalls(key string) map[string]struct {
	method string
	read   bool
	call   func(context.Context, clientv3.KV) error
} {
	type kvCall = struct {
		method string
		read   bool
		call   func(context.Context, clientv3.KV) error
	}
	do := func(op clientv3.Op) func(context.Context, clientv3.KV) error {
		return func(ctx context.Context, kv clientv3.KV) error {
			_, err := kv.Do(ctx, op)
			return err
		}
	}
	commit := func(then, otherwise clientv3.Op) func(context.Context, clientv3.KV) error {
		return func(ctx context.Context, kv clientv3.KV) error {
			cmp := clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
			_, err := kv.Txn(ctx).If(cmp).Then(then).Else(otherwise).Commit()
			return err
		}
	}
	get, put := clientv3.OpGet(key), clientv3.OpPut(key, "v")
	return map[string]kvCall{
		"Get": {"KV/Range", true, func(ctx context.Context, kv clientv3.KV) error {
			_, err := kv.Get(ctx, key)
			return err
		}},
		"Put": {"KV/Put", false, func(ctx context.Context, kv clientv3.KV) error {
			_, err := kv.Put(ctx, key, "v")
			return err
		}},
		"Delete": {"KV/DeleteRange", false, func(ctx context.Context, kv clientv3.KV) error {
			_, err := kv.Delete(ctx, key)
			return err
		}},
		"Do of a get":                        {"KV/Range", true, do(get)},
		"Do of a put":                        {"KV/Put", false, do(put)},
		"Do of a delete":                     {"KV/DeleteRange", false, do(clientv3.OpDelete(key))},
		"Do of a transaction that reads":     {"KV/Txn", true, do(clientv3.OpTxn(nil, []clientv3.Op{get}, []clientv3.Op{get}))},
		"Do of a transaction within one":     {"KV/Txn", false, do(clientv3.OpTxn(nil, nil, []clientv3.Op{clientv3.OpTxn(nil, []clientv3.Op{put}, nil)}))},
		"a transaction that reads":           {"KV/Txn", true, commit(get, get)},
		"a transaction that writes":          {"KV/Txn", false, commit(put, get)},
		"a transaction that writes at times": {"KV/Txn", false, commit(get, put)},
	}
}

func TestKV_RetriesOnlyReadsOnceSent(t *testing.T) {
	t.Parallel()
	for name, tt := range kvCalls(etcdtest.Prefix(t) + "k") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lost := failing(tt.method, 2, true)
			cli, e := installed(t, lost.Option)
			err := tt.call(t.Context(), cli.KV)
			if tt.read {
				require.NoError(t, err)
				assert.EqualValues(t, 3, lost.calls.Load())
				return
			}
			assert.EqualValues(t, 1, lost.calls.Load())
			assert.Equal(t, codes.Unavailable, status.Code(err))
			_, wrapped := errors.AsType[*errs.Error](err)
			assert.False(t, wrapped, "%T is not client/v3's", err)
			assert.EqualValues(t, 1, e.Stats().Unknown)
		})
	}
}

func TestKV_RetriesUnsentRequests(t *testing.T) {
	t.Parallel()
	for name, tt := range kvCalls(etcdtest.Prefix(t) + "k") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cut := failing(tt.method, 2, false)
			cli, _ := installed(t, cut.Option)
			require.NoError(t, tt.call(t.Context(), cli.KV))
			assert.EqualValues(t, 3, cut.calls.Load())
		})
	}
}

func TestKV_RetriesRejectedTokenOnce(t *testing.T) {
	t.Parallel()
	for name, tt := range kvCalls(etcdtest.Prefix(t) + "k") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lapsed := failing(tt.method, 1, true)
			lapsed.err = rpctypes.ErrGRPCInvalidAuthToken
			cli, _ := installed(t, lapsed.Option)
			require.NoError(t, tt.call(t.Context(), cli.KV))
			assert.EqualValues(t, 2, lapsed.calls.Load())
			lapsed.left.Store(5)
			require.ErrorIs(t, tt.call(t.Context(), cli.KV), rpctypes.ErrInvalidAuthToken)
			assert.EqualValues(t, 4, lapsed.calls.Load())
		})
	}
}

func TestKV_RetriesUnsentCompaction(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	cut := failing("KV/Compact", 1, false)
	cli := s.Client(t, hardened(t), cut.Option)
	install(cli, false)
	put, err := cli.Put(t.Context(), "k", "v")
	require.NoError(t, err)
	_, err = cli.Compact(t.Context(), put.Header.Revision)
	require.NoError(t, err)
	_, err = cli.Get(t.Context(), "k", clientv3.WithRev(1))
	assert.Equal(t, rpctypes.ErrCompacted, err, "the very value that client/v3 returns")
}

func TestKV_TxnRespondsAsUndecorated(t *testing.T) {
	t.Parallel()
	cli, _ := installed(t)
	key := etcdtest.Prefix(t) + "k"
	absent := clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	create := func(value string) *clientv3.TxnResponse {
		resp, err := cli.Txn(t.Context()).If(absent).Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
		require.NoError(t, err)
		return resp
	}
	assert.True(t, create("first").Succeeded)
	second := create("second")
	assert.False(t, second.Succeeded)
	assert.Equal(t, "first", string(second.Responses[0].GetResponseRange().GetKvs()[0].GetValue()))

	got, err := cli.Do(t.Context(), clientv3.OpGet(key))
	require.NoError(t, err)
	assert.Equal(t, "first", string(got.Get().Kvs[0].GetValue()))
	gone, err := cli.Delete(t.Context(), key)
	require.NoError(t, err)
	assert.EqualValues(t, 1, gone.Deleted)
	stream, err := cli.GetStream(t.Context(), key)
	require.NoError(t, err)
	all, err := clientv3.GetStreamToGetResponse(stream)
	require.NoError(t, err)
	assert.Empty(t, all.Kvs)
}

func TestKV_TxnMisusePanicsAsUndecorated(t *testing.T) {
	t.Parallel()
	get := clientv3.OpGet("k")
	cases := map[string]func(clientv3.Txn){
		"If twice":                  func(x clientv3.Txn) { x.If().If() },
		"If after Then":             func(x clientv3.Txn) { x.Then(get).If() },
		"If after Else":             func(x clientv3.Txn) { x.Else(get).If() },
		"Then twice":                func(x clientv3.Txn) { x.Then(get).Then(get) },
		"Then after Else":           func(x clientv3.Txn) { x.Else(get).Then(get) },
		"Else twice":                func(x clientv3.Txn) { x.Else(get).Else(get) },
		"an operation that is none": func(x clientv3.Txn) { x.Then(clientv3.Op{}) },
	}
	cli, _ := installed(t)
	for name, misuse := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var want any
			func() {
				defer func() { want = recover() }()
				misuse(etcdtest.Client(t).Txn(t.Context()))
			}()
			require.NotNil(t, want)
			assert.PanicsWithValue(t, want, func() { misuse(cli.Txn(t.Context())) })
		})
	}
}

func TestKV_ContextErrorsAreThoseOfTheClient(t *testing.T) {
	t.Parallel()
	why := errors.New("shutting down")
	for name, tt := range kvCalls(etcdtest.Prefix(t) + "k") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaderless := failing(tt.method, 1, true)
			leaderless.err = rpctypes.ErrGRPCNoLeader
			cli := etcdtest.Client(t, hardened(t), leaderless.Option)
			ended, stop := context.WithCancelCause(t.Context())
			decorate.Client(cli, retry.New(retry.Config{
				Client: cli, Observed: true, Policy: retry.Policy{BaseDelay: time.Hour},
				Scope: scopetest.New(scope.Hooks{ // comes before the wait
					Retry: func(context.Context, scope.Operation, int, error) { stop(why) },
				}),
			}), false)
			assert.Equal(t, context.Canceled, tt.call(ended, cli.KV), "while it waits for a leader")
			assert.EqualValues(t, 1, leaderless.calls.Load())
			assert.Equal(t, context.Canceled, tt.call(ended, cli.KV), "before the call")
		})
	}
}

func TestKV_CallWithoutDeadlineWaitsAsUndecorated(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	cli := s.Client(t, hardened(t))
	e := retry.New(retry.Config{
		Client: cli, Observed: true, Policy: quick(),
		ReadTimeout: time.Millisecond, WriteTimeout: time.Millisecond,
	})
	decorate.Client(cli, e, false)
	s.Kill()
	got := make(chan error, 2)
	go func() {
		_, err := cli.Get(t.Context(), "k")
		got <- err
	}()
	go func() {
		_, err := cli.Put(t.Context(), "k", "v")
		got <- err
	}()
	s.Launch()
	s.WaitReady()
	require.NoError(t, <-got)
	require.NoError(t, <-got)
}

func TestKV_RetriesWithoutDeadlineEnd(t *testing.T) {
	t.Parallel()
	leaderless := failing("KV/Put", 1<<30, true)
	leaderless.err = rpctypes.ErrGRPCNoLeader
	cli := etcdtest.Client(t, hardened(t), leaderless.Option)
	e := retry.New(retry.Config{Client: cli, Observed: true, Policy: quick(), WriteTimeout: 500 * time.Millisecond})
	decorate.Client(cli, e, false)
	_, err := cli.Get(t.Context(), "k")
	require.NoError(t, err, "so that the connection is there")
	_, err = cli.Put(t.Context(), etcdtest.Prefix(t)+"k", "v")
	assert.Equal(t, rpctypes.ErrNoLeader, err)
	assert.Greater(t, leaderless.calls.Load(), int64(1))
}

func TestKV_ClosedClientErrors(t *testing.T) {
	t.Parallel()
	bare, decorated := etcdtest.Client(t, hardened(t)), etcdtest.Client(t, hardened(t))
	install(decorated, true)
	require.NoError(t, bare.Close())
	require.NoError(t, decorated.Close())
	_, want := bare.Get(t.Context(), "k")
	require.Error(t, want)
	_, err := decorated.Get(t.Context(), "k")
	assert.Equal(t, want, err)
	_, err = decorated.Txn(t.Context()).Commit()
	assert.Equal(t, want, err)
	_, err = decorated.TimeToLive(t.Context(), 1)
	assert.Equal(t, want, err)
}

func TestKV_PackagesUseTheUndecoratedClient(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t, hardened(t))
	kv, lease, watcher := cli.KV, cli.Lease, cli.Watcher
	install(cli, true)
	install(cli, true)
	assert.NotSame(t, kv, cli.KV)
	below, observed := wire.KV(cli)
	assert.Same(t, kv, below)
	assert.True(t, observed)
	assert.Same(t, lease, cli.Lease.(wire.BasedLease).BaseLease())
	assert.Same(t, watcher, cli.Watcher.(interface{ BaseWatcher() clientv3.Watcher }).BaseWatcher())
	id := wire.NewLeaseID()
	got, ttl, err := wire.Grant(t.Context(), cli, id, 30*time.Second)
	require.NoError(t, err)
	assert.Equal(t, id, got)
	assert.Equal(t, 30*time.Second, ttl)
	_, err = cli.Revoke(t.Context(), id)
	require.NoError(t, err)
}
