package cache_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

// heldRead is a replica with a linearizable read in flight. Etcd has answered it, when key "a" was
// "old", but the answer has not arrived.
type heldRead struct {
	replica *cache.Replica[string]
	store   *kv.Store

	release func()                  // lets the answer arrive
	cancel  context.CancelCauseFunc // of the read
	err     chan error              // of the read
	reads   atomic.Int64            // of the revision that were sent
}

// holdRead returns once the answer to the read is held back.
func holdRead(t *testing.T) *heldRead {
	t.Helper()
	cli := etcdtest.Client(t)
	kvs := installFakeKV(cli)
	var armed atomic.Bool
	answered, release := make(chan struct{}), make(chan struct{})
	h := &heldRead{err: make(chan error, 1), release: sync.OnceFunc(func() { close(release) })}
	kvs.answer = func(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
		resp, err := kvs.KV.Do(ctx, op)
		if !armed.Load() || !op.IsGet() || !op.IsCountOnly() || h.reads.Add(1) > 1 {
			return resp, err
		}
		close(answered)
		select {
		case <-release:
			return resp, err
		case <-ctx.Done():
			return clientv3.OpResponse{}, ctx.Err()
		}
	}
	p := parttest.New(t, cli, etcdtest.Prefix(t))
	mustPut(t, p.KV(), "dir/a", "old")
	h.replica, h.store = openReplica(t, p, "dir", kv.String()), p.KV()
	armed.Store(true)
	ctx, cancel := context.WithCancelCause(t.Context())
	h.cancel = cancel
	go func() {
		_, err := h.replica.GetLinearizable(ctx, "a")
		h.err <- err
	}()
	<-answered
	t.Cleanup(func() { h.release(); cancel(nil) })
	return h
}

// join starts n linearizable reads of "a" and returns once one of them is queued behind the read in
// flight. The function that it returns waits for their values.
func (h *heldRead) join(t *testing.T, n int) (values func() []string) {
	t.Helper()
	var wg sync.WaitGroup
	out := make([]string, n)
	for i := range n {
		wg.Go(func() {
			e, err := h.replica.GetLinearizable(t.Context(), "a")
			assert.NoError(t, err)
			out[i] = e.Value
		})
	}
	parttest.Eventually(t, h.replica.HasQueuedRead, "a read is queued")
	return func() []string {
		wg.Wait()
		return out
	}
}

func TestReadIndex_IsNotServedByReadInFlight(t *testing.T) {
	t.Parallel()
	h := holdRead(t)
	mustPut(t, h.store, "dir/a", "new")
	values := h.join(t, 3)
	h.release()
	for _, v := range values() {
		assert.Equal(t, "new", v)
	}
	require.NoError(t, <-h.err)
	assert.GreaterOrEqual(t, h.reads.Load(), int64(2), "those that arrived later have a read of their own")
}

func TestReadIndex_SurvivesCancellationOfOtherCaller(t *testing.T) {
	t.Parallel()
	h := holdRead(t)
	mustPut(t, h.store, "dir/a", "new")
	values := h.join(t, 3)
	cause := errors.New("the caller has left")
	h.cancel(cause)
	err := <-h.err
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, cause)
	for _, v := range values() {
		assert.Equal(t, "new", v)
	}
}

func TestReadIndex_EndsWithReplica(t *testing.T) {
	t.Parallel()
	h := holdRead(t)
	joined := make(chan error, 1)
	go func() {
		_, err := h.replica.GetLinearizable(t.Context(), "a")
		joined <- err
	}()
	parttest.Eventually(t, h.replica.HasQueuedRead, "a read is queued")
	assert.NoError(t, h.replica.Close())
	require.ErrorIs(t, <-h.err, cache.ErrClosed)
	require.ErrorIs(t, <-joined, cache.ErrClosed)
}
