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
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// coalesceBench is a store over a shared KV over a connection that can be tampered with. Calls of
// it share a transaction.
type coalesceBench struct {
	*kv.Store

	k       clientv3.KV
	proxy   *etcdtest.Proxy
	truth   *clientv3.Client
	release func() // lets what waits go
}

// newCoalesceBench keeps the way busy with puts until it is released.
func newCoalesceBench(t *testing.T, how func(*clientv3.Config)) coalesceBench {
	t.Helper()
	return newCoalesceBenchOver(t, how, func(next clientv3.KV, _ *etcdtest.Proxy) clientv3.KV { return next })
}

func newCoalesceBenchOver(t *testing.T, how func(*clientv3.Config), next func(clientv3.KV, *etcdtest.Proxy) clientv3.KV) coalesceBench {
	t.Helper()
	srv := etcdtest.Start(t)
	p := srv.Proxy(t)
	cli := etcdtest.NewClient(t, p.Endpoints(), how)
	_, err := cli.Get(t.Context(), "warm") // the connection stands
	require.NoError(t, err)
	b := &fakeBlockingKV{KV: next(cli.KV, p), up: make(chan struct{}), drop: true}
	k := kv.WithoutFlush(kv.Coalesce(b))
	cli.KV = k
	var wg sync.WaitGroup
	for i := range kv.MaxDirectCalls {
		wg.Go(func() {
			_, err := k.Put(t.Context(), "busy", "v")
			assert.ErrorIs(t, err, errDropped)
		})
		require.Eventually(t, func() bool { return int(b.held.Load()) == i+1 }, 10*time.Second, time.Millisecond)
	}
	t.Cleanup(wg.Wait)
	return coalesceBench{
		Store: etcdtest.Must(kv.New(cli, kv.WithNamespace("app"), kv.WithRetry(kv.RetryPolicy{MaxAttempts: 1}))), k: k, proxy: p, truth: srv.Client(t),
		release: sync.OnceFunc(func() { close(b.up) }),
	}
}

// disconnect takes the connection away, and waits until the client has noticed.
func (c coalesceBench) disconnect(t *testing.T) {
	t.Helper()
	c.proxy.Refuse()
	c.proxy.Cut()
	require.Eventually(t, func() bool {
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer stop()
		_, err := c.Get(ctx, "k")
		return err != nil
	}, 10*time.Second, time.Millisecond)
}

// storePuts makes n puts of the store that wait together.
func (c coalesceBench) storePuts(t *testing.T, ctx context.Context, n int) (results []chan error) {
	t.Helper()
	return c.together(t, n, func(i int) error { _, err := c.Put(ctx, strconv.Itoa(i), []byte("v")); return err })
}

// puts makes n puts of the KV that wait together.
func (c coalesceBench) puts(t *testing.T, k clientv3.KV, n int, ctx func(i int) context.Context) (results []chan error) {
	t.Helper()
	return c.together(t, n, func(i int) error { _, err := k.Put(ctx(i), "app/"+strconv.Itoa(i), "v"); return err })
}

func (c coalesceBench) together(t *testing.T, n int, put func(i int) error) (results []chan error) {
	t.Helper()
	for i := range n {
		done := make(chan error, 1)
		results = append(results, done)
		go func() { done <- put(i) }()
		require.Eventually(t, func() bool { return kv.WaitingCalls(c.k) == i+1 }, 10*time.Second, time.Millisecond)
	}
	return results
}

// versions is how often each of the n keys was written.
func (c coalesceBench) versions(t *testing.T, n int) (out []int64) {
	t.Helper()
	for i := range n {
		r, err := c.truth.Get(context.WithoutCancel(t.Context()), "app/"+strconv.Itoa(i))
		require.NoError(t, err)
		if len(r.Kvs) == 0 {
			out = append(out, 0)
		} else {
			out = append(out, r.Kvs[0].Version)
		}
	}
	return out
}

func TestCoalesce_CutConnectionMakesWritesUnknown(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		c := newCoalesceBench(t, how)
		results := c.storePuts(t, t.Context(), 10)
		c.proxy.Hold(false, true)
		c.release()
		require.Eventually(t, func() bool { return c.versions(t, 1)[0] == 1 }, 10*time.Second, time.Millisecond)
		c.proxy.Cut()
		c.proxy.Heal()
		for i, r := range results {
			err := <-r
			require.ErrorIs(t, err, kv.ErrUnknownOutcome)
			assert.Contains(t, err.Error(), `kv: put "app/`+strconv.Itoa(i)+`"`)
		}
		assert.Equal(t, []int64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, c.versions(t, 10))
	})
}

func TestCoalesce_CanceledWriteInFlightIsUnknown(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		c := newCoalesceBench(t, how)
		ctx, stop := context.WithCancel(t.Context())
		results := c.storePuts(t, ctx, 10)
		c.proxy.Hold(false, true)
		c.release()
		require.Eventually(t, func() bool { return c.versions(t, 1)[0] == 1 }, 10*time.Second, time.Millisecond)
		stop()
		for _, r := range results {
			err := <-r
			require.ErrorIs(t, err, kv.ErrUnknownOutcome)
			require.ErrorIs(t, err, context.Canceled)
		}
		c.proxy.Heal()
		assert.Equal(t, []int64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, c.versions(t, 10))
	})
}

// A hardened client knows that a request never left the process, so its outcome is not unknown. The
// end of one context does not end the other calls.
func TestCoalesce_UnsentTransactionIsNotUnknown(t *testing.T) {
	t.Parallel()
	c := newCoalesceBench(t, hardened(t))
	ctx, stop := context.WithCancel(t.Context())
	results := c.puts(t, c.k, 10, func(i int) context.Context {
		if i == 3 {
			return ctx
		}
		return t.Context()
	})
	c.disconnect(t)
	c.release()
	require.Eventually(t, func() bool { return kv.WaitingCalls(c.k) == 0 }, 10*time.Second, time.Millisecond)
	time.Sleep(2 * kv.MaxBatchWait) // what is not sent by now is not about to be
	stop()
	err := <-results[3]
	require.ErrorIs(t, err, context.Canceled)
	assert.True(t, errs.NotApplied(err), "%v", err)
	c.proxy.Accept()
	want := []int64{1, 1, 1, 0, 1, 1, 1, 1, 1, 1}
	for i, r := range results {
		if i != 3 {
			require.NoError(t, <-r)
		}
	}
	assert.Equal(t, want, c.versions(t, 10))
}

// fakeUncancelableKV sends a transaction after all when its context has ended.
type fakeUncancelableKV struct {
	clientv3.KV

	before func()
}

func (s fakeUncancelableKV) Txn(ctx context.Context) clientv3.Txn {
	return &fakeUncancelableTxn{s, ctx, nil}
}

type fakeUncancelableTxn struct {
	fakeUncancelableKV

	ctx context.Context
	ops []clientv3.Op
}

func (x *fakeUncancelableTxn) If(...clientv3.Cmp) clientv3.Txn      { return x }
func (x *fakeUncancelableTxn) Then(ops ...clientv3.Op) clientv3.Txn { x.ops = ops; return x }
func (x *fakeUncancelableTxn) Else(...clientv3.Op) clientv3.Txn     { return x }

func (x *fakeUncancelableTxn) Commit() (*clientv3.TxnResponse, error) {
	if _, err := x.KV.Txn(x.ctx).Then(x.ops...).Commit(); err == nil {
		return nil, errors.New("was sent too early")
	}
	x.before()
	_, err := x.KV.Txn(context.WithoutCancel(x.ctx)).Then(x.ops...).Commit() //nolint:contextcheck // this is the point
	return nil, errors.Join(err, context.Canceled)
}

// The connection may be restored at the moment at which a transaction is canceled.
func TestCoalesce_TransactionSentLateIsUnknown(t *testing.T) {
	t.Parallel()
	c := newCoalesceBenchOver(t, hardened(t), func(next clientv3.KV, p *etcdtest.Proxy) clientv3.KV { return fakeUncancelableKV{next, p.Accept} })
	ctx, stop := context.WithCancel(t.Context())
	results := c.puts(t, c.k, 5, func(i int) context.Context {
		if i == 3 {
			return ctx
		}
		return t.Context()
	})
	c.disconnect(t)
	c.release()
	require.Eventually(t, func() bool { return kv.WaitingCalls(c.k) == 0 }, 10*time.Second, time.Millisecond)
	time.Sleep(2 * kv.MaxBatchWait)
	stop()
	for i, r := range results {
		err := <-r
		assert.False(t, errs.NotApplied(err), "%v", err)
		if i == 3 {
			assert.Equal(t, context.Canceled, err)
		} else {
			require.ErrorIs(t, err, kv.ErrUnknownOutcome)
			assert.NotErrorIs(t, err, context.Canceled, "that is somebody else's")
		}
	}
	assert.Equal(t, []int64{1, 1, 1, 1, 1}, c.versions(t, 5))
}

// A transaction of gets that breaks is no reason for an error where client/v3 gives none.
func TestCoalesce_GetsSurviveCutConnection(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := srv.Proxy(t)
	rpcs := etcdtest.Counter(t)
	cli := etcdtest.NewClient(t, p.Endpoints(), rpcs.Option)
	for i := range 10 {
		_, err := cli.Put(t.Context(), strconv.Itoa(i), strconv.Itoa(i))
		require.NoError(t, err)
	}
	b := &fakeBlockingKV{KV: cli.KV, up: make(chan struct{}), drop: true}
	k := kv.WithoutFlush(kv.Coalesce(b))
	var wg sync.WaitGroup
	for i := range kv.MaxDirectCalls {
		wg.Go(func() {
			_, err := k.Get(t.Context(), "busy")
			assert.ErrorIs(t, err, errDropped)
		})
		require.Eventually(t, func() bool { return int(b.held.Load()) == i+1 }, 10*time.Second, time.Millisecond)
	}
	for i := range 10 {
		wg.Go(func() {
			r, err := k.Get(t.Context(), strconv.Itoa(i))
			if assert.NoError(t, err) && assert.Len(t, r.Kvs, 1) {
				assert.Equal(t, strconv.Itoa(i), string(r.Kvs[0].Value))
			}
		})
	}
	require.Eventually(t, func() bool { return kv.WaitingCalls(k) == 10 && int(b.held.Load()) == kv.MaxDirectCalls }, 10*time.Second, time.Millisecond)
	p.Hold(false, true)
	close(b.up)
	require.Eventually(t, func() bool { return rpcs.Sent("KV/Txn") == 1 }, 10*time.Second, time.Millisecond)
	p.Cut()
	p.Heal()
	wg.Wait()
	assert.Equal(t, 1, rpcs.Count("KV/Txn"))
}

// While etcd is away calls end with their contexts; when it is back, so is everything.
func TestCoalesce_RecoversWithEtcd(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cli := srv.Client(t)
	k := kv.Coalesce(cli.KV)
	_, err := k.Put(t.Context(), "k", "v")
	require.NoError(t, err)
	srv.Pause()
	ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer stop()
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			_, err := k.Put(ctx, strconv.Itoa(i), "v")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			_, err = k.Get(ctx, strconv.Itoa(i))
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
	}
	wg.Wait()
	assert.Zero(t, kv.WaitingCalls(k))
	srv.Resume()
	for i := range 64 {
		wg.Go(func() {
			_, err := k.Put(t.Context(), strconv.Itoa(i), "w")
			assert.NoError(t, err)
		})
	}
	wg.Wait()
}
