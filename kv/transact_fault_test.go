package kv_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// The sum of all accounts never changes, and there is a receipt for a transfer if and only if it
// was acknowledged, while connections are cut and leaders killed.
func TestTransact_BankStaysExactUnderFaults(t *testing.T) { //nolint:paralleltest // it needs the machine for itself
	const accounts, each, clients, goroutines = 4, 1000, 3, 5
	cluster := etcdtest.StartCluster(t, 3)
	var proxies []*etcdtest.Proxy
	var endpoints []string
	for _, m := range cluster.Members {
		p := m.Proxy(t)
		proxies, endpoints = append(proxies, p), append(endpoints, p.Endpoint())
	}
	truth := etcdtest.Must(kv.New(cluster.Client(t), kv.WithNamespace("bank")))
	name := func(i int) string { return fmt.Sprintf("%02d", i) }
	for i := range accounts {
		_, err := kv.NewTyped(truth, "acc", kv.JSON[account]()).Put(t.Context(), name(i), account{each}, kv.WithOnce())
		require.NoError(t, err)
	}

	ctx, stop := context.WithTimeout(t.Context(), 8*time.Second)
	defer stop()
	var all sync.WaitGroup
	var cuts, kills atomic.Int64
	all.Go(func() {
		for ctx.Err() == nil {
			proxies[rand.IntN(len(proxies))].Cut()
			cuts.Add(1)
			pause(ctx, 100*time.Millisecond)
		}
	})
	all.Go(func() {
		for pause(ctx, 2*time.Second); ctx.Err() == nil; pause(ctx, 2*time.Second) {
			leader := cluster.Leader(t)
			leader.Kill()
			kills.Add(1)
			pause(ctx, time.Second)
			leader.Launch()
		}
	})

	type result struct {
		id  string
		err error
	}
	results := make(chan result, 100_000)
	for c := range clients {
		store := etcdtest.Must(kv.New(etcdtest.NewClient(t, endpoints, hardened(t)), kv.WithNamespace("bank")))
		acc, receipts := kv.NewTyped(store, "acc", kv.JSON[account]()), kv.NewTyped(store, "done", kv.String())
		for g := range goroutines {
			all.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					id, from := fmt.Sprintf("%d-%d-%d", c, g, n), rand.IntN(accounts)
					to := (from + 1 + rand.IntN(accounts-1)) % accounts
					bounded, stop := context.WithTimeout(t.Context(), 20*time.Second)
					_, err := store.Transact(bounded, transfer(acc, receipts, id, name(from), name(to), 1+rand.IntN(300)), kv.WithOnce())
					stop()
					results <- result{id, err}
				}
			})
		}
	}
	all.Wait()
	close(results)
	cluster.WaitReady()

	sum := 0
	for e, err := range kv.NewTyped(truth, "acc", kv.JSON[account]()).List(t.Context()) {
		require.NoError(t, err)
		assert.GreaterOrEqual(t, e.Value.Balance, 0)
		sum += e.Value.Balance
	}
	assert.Equal(t, accounts*each, sum)
	receipts, err := truth.Map(t.Context(), "done/")
	require.NoError(t, err)
	applied, refused, unknown := 0, 0, 0
	for r := range results {
		_, there := receipts["done/"+r.id]
		switch {
		case r.err == nil:
			applied++
			assert.True(t, there, "transfer %s was acknowledged", r.id)
		case errors.Is(r.err, kv.ErrUnknownOutcome):
			unknown++
			assert.ErrorIs(t, r.err, context.DeadlineExceeded, "only the end of the time leaves it open")
		default:
			refused++
			assert.False(t, there, "transfer %s failed: %v", r.id, r.err)
			assert.True(t, errors.Is(r.err, errFunds) || errs.NotApplied(r.err), "%v", r.err)
		}
	}
	t.Logf("applied %d, refused %d, unknown %d, cuts %d, kills %d", applied, refused, unknown, cuts.Load(), kills.Load())
	assert.Greater(t, applied, 50)
	assert.Positive(t, kills.Load())
}

// pause waits, at most until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// A transaction whose answer is lost: it overwrites a key that it has read, so it is repeated. The
// function of OnWrite learns the revision, or 0 if the outcome is unknown.
func TestTransact_ResolvesLostResponse(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		s := newProxyBench(t, how)
		before, err := s.Put(t.Context(), "d/k", []byte("1"))
		require.NoError(t, err)
		type write struct {
			key string
			rev int64
		}
		var writes []write
		values := kv.NewTyped(s.Store, "d", kv.String()).OnWrite(func(_ context.Context, key string, rev int64) {
			writes = append(writes, write{key, rev})
		})
		loseAppend := func(key string, o ...kv.WriteOption) (int64, error) {
			writes = nil
			ctx, stop := context.WithTimeout(t.Context(), 8*time.Second)
			defer stop()
			return s.Transact(ctx, func(_ context.Context, tx *kv.Tx) error {
				e, err := values.In(tx).Get(key)
				if err != nil && !errors.Is(err, kv.ErrNotFound) {
					return err
				}
				if err := values.In(tx).Put(key, e.Value+"+"); err != nil {
					return err
				}
				onFirst(tx, func() {
					s.proxy.Blackhole(false, true)
					time.AfterFunc(500*time.Millisecond, func() { s.proxy.Heal(); s.proxy.Cut() })
				})
				return nil
			}, o...)
		}
		rev, err := loseAppend("k", kv.WithOnce())
		require.NoError(t, err)
		assert.Greater(t, rev, before)
		assert.Equal(t, []write{{"k", rev}}, writes)
		value, version := s.state(t, "d/k")
		assert.Equal(t, "1+", value)
		assert.EqualValues(t, 2, version, "applied once")

		_, err = loseAppend("k")
		require.ErrorIs(t, err, kv.ErrUnknownOutcome, "the value is there, but may be another client's")
		require.ErrorContains(t, err, "holds this value")
		assert.Equal(t, []write{{"k", 0}}, writes)
		_, version = s.state(t, "d/k")
		assert.EqualValues(t, 3, version, "applied once")

		_, err = loseAppend("absent")
		require.ErrorIs(t, err, kv.ErrUnknownOutcome)
		assert.Equal(t, []write{{"absent", 0}}, writes)
		_, version = s.state(t, "d/absent")
		assert.EqualValues(t, 1, version, "sent once")
	})
}
