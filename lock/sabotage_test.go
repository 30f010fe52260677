package lock_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

// A saboteur deletes the keys of holders and revokes their leases, while the holders read, pause,
// and write under a guard. A write of a former holder would undo one of the next holder, and the
// counter would fall behind.
func TestHeld_GuardHoldsUnderSabotage(t *testing.T) {
	t.Parallel()
	losses := 40
	if long() {
		losses = 1000
	}
	dir := etcdtest.Prefix(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*within)
	defer stop()
	var accepted, refused, harmed atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		l, p := newLocker(t, dir)
		for range 2 {
			wg.Go(func() {
				for ctx.Err() == nil {
					increment(ctx, t, l.Mutex("m"), p, &accepted, &refused)
				}
			})
		}
	}
	cli := etcdtest.Client(t)
	for harmed.Load() < int64(losses) && ctx.Err() == nil {
		resp, err := cli.Get(ctx, dir+"locks/m/", clientv3.WithFirstCreate()...)
		require.NoError(t, err)
		if len(resp.Kvs) > 0 {
			if n := harmed.Add(1); n%4 == 0 {
				_, _ = cli.Revoke(ctx, clientv3.LeaseID(resp.Kvs[0].Lease)) // may be gone by now
			} else {
				_, err = cli.Delete(ctx, string(resp.Kvs[0].Key))
				require.NoError(t, err)
			}
		}
		time.Sleep(time.Duration(rand.IntN(8)) * time.Millisecond) // harm is to come at any moment
	}
	stop()
	wg.Wait()
	resp, err := cli.Get(t.Context(), dir+"counter")
	require.NoError(t, err)
	require.NotEmpty(t, resp.Kvs)
	assert.Equal(t, strconv.FormatInt(accepted.Load(), 10), string(resp.Kvs[0].Value))
	assert.NotZero(t, refused.Load())
	t.Logf("%d losses: %d writes accepted, %d refused", harmed.Load(), accepted.Load(), refused.Load())
}

func increment(ctx context.Context, t *testing.T, m *lock.Mutex, p *parts, accepted, refused *atomic.Int64) {
	t.Helper()
	h, err := m.Lock(ctx)
	if err != nil {
		if ctx.Err() == nil {
			assert.ErrorIs(t, err, lock.ErrLost)
		}
		return
	}
	defer func() { _ = h.Release(t.Context()) }() // often lost
	e, err := p.store.Get(t.Context(), "counter")
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		assert.NoError(t, err)
		return
	}
	n, _ := strconv.Atoi(string(e.Value))
	// It pauses and does not check its context.
	time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond)
	switch _, err = p.store.Put(t.Context(), "counter", []byte(strconv.Itoa(n+1)), kv.WithGuard(h)); {
	case err == nil:
		accepted.Add(1)
	case assert.ErrorIs(t, err, lock.ErrLost):
		refused.Add(1)
	}
}
