package kv_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
)

// The reason why there is no connection is the last one that is known. It is not looked for after
// the deadline.
func TestStore_ShortDeadlineReturnsInTime(t *testing.T) {
	t.Parallel()
	p := etcdtest.NewProxy(t, "http://127.0.0.1:1")
	p.Refuse()
	cli := etcdtest.NewClient(t, p.Endpoints(), hardened(t))
	s := etcdtest.Must(kv.New(cli))
	// gRPC knows by now.
	require.ErrorContains(t, wire.Probe(t.Context(), cli.ActiveConnection()), "connection refused")
	const limit, calls = 20 * time.Millisecond, 20
	quickest, explained := time.Hour, 0
	for range calls {
		began := time.Now()
		ctx, stop := context.WithTimeout(t.Context(), limit)
		_, err := s.Get(ctx, "k")
		quickest = min(quickest, time.Since(began))
		stop()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, kv.ErrUnavailable)
		require.ErrorContains(t, err, p.Endpoint())
		if strings.Contains(err.Error(), "connection refused") {
			explained++
		}
	}
	assert.Positive(t, explained, "gRPC may be connecting now and then, but not always")
	assert.GreaterOrEqual(t, quickest, limit)
	assert.Less(t, quickest, 2*limit, "a loaded machine is late now and then, but not always")
}

// A round trip takes longer than the quarter of a second, or the 2 s, that an attempt used to be
// given.
func TestStore_WaitsForSlowResponses(t *testing.T) {
	t.Parallel()
	for rtt, deadline := range map[time.Duration]time.Duration{400 * time.Millisecond: 1100 * time.Millisecond, 2400 * time.Millisecond: 20 * time.Second} {
		t.Run(rtt.String(), func(t *testing.T) {
			t.Parallel()
			srv := etcdtest.Start(t)
			p, n := srv.Proxy(t), etcdtest.Counter(t)
			s := etcdtest.Must(kv.New(etcdtest.NewClient(t, p.Endpoints(), hardened(t), n.Option), kv.WithNamespace("app")))
			rev, err := s.Put(t.Context(), "k", []byte("1"), kv.WithOnce()) // there is a slot
			require.NoError(t, err)
			p.Delay(rtt / 2)
			for _, c := range []struct {
				name string
				sent map[string]int
				f    func(ctx context.Context) error
			}{
				{"get", rpc("KV/Range", 1), func(ctx context.Context) error { _, err := s.Get(ctx, "k"); return err }},
				{"put", rpc("KV/Put", 1), func(ctx context.Context) error { return errOf(s.Put(ctx, "p", nil)) }},
				{"replace", rpc("KV/Txn", 1), func(ctx context.Context) error { return errOf(s.Replace(ctx, "k", []byte("2"), rev)) }},
				{"put once", rpc("KV/Txn", 1), func(ctx context.Context) error { return errOf(s.Put(ctx, "o", nil, kv.WithOnce())) }},
			} {
				n.Reset()
				ctx, stop := context.WithTimeout(t.Context(), deadline)
				require.NoError(t, c.f(ctx), c.name)
				stop()
				assert.Equal(t, c.sent, n.Counts(), c.name)
			}
		})
	}
}

// One connection carries all of them, and all of them are repeated.
func TestStore_ReadsSurviveLostConnection(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := srv.Proxy(t)
	s := etcdtest.Must(kv.New(etcdtest.NewClient(t, p.Endpoints(), hardened(t))))
	_, err := s.Exists(t.Context(), "k")
	require.NoError(t, err)
	const reads = 600
	p.Hold(false, true)
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range reads {
		wg.Go(func() {
			if _, err := s.Exists(t.Context(), "k"); err != nil {
				failed.Add(1)
				t.Log(err)
			}
		})
	}
	require.Eventually(t, func() bool { return s.Stats().Calls == reads+1 }, 10*time.Second, time.Millisecond)
	p.Cut()
	p.Heal()
	wg.Wait()
	assert.Zero(t, failed.Load())
	assert.Positive(t, s.Stats().Retries)
}

// A client that Open has not made has no connections to single members: its balancer picks another
// one for the second attempt, here the only other one.
func TestStore_HedgesOverClientConnection(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, how func(*clientv3.Config)) {
		var hang atomic.Bool
		over := make(chan struct{})
		hangs := etcdtest.StartFakeKV(t, func(int) error {
			if hang.Load() {
				<-over
			}
			return nil
		})
		t.Cleanup(func() { close(over) })
		answers := etcdtest.StartFakeKV(t, func(int) error { return nil })
		eps := append(hangs.Client(t).Endpoints(), answers.Client(t).Endpoints()...)
		cli := etcdtest.NewClient(t, eps, how)
		s := etcdtest.Must(kv.New(cli))
		for hangs.Calls() == 0 || answers.Calls() == 0 { // until the balancer has both
			_, err := s.Exists(t.Context(), "k")
			require.NoError(t, err)
		}
		hang.Store(true)
		for range 4 { // of two in a row, one meets the one that hangs
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
			_, err := s.Exists(ctx, "k")
			stop()
			require.NoError(t, err)
		}
		assert.Positive(t, s.Stats().Retries)
	})
}
