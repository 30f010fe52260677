package lease_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
)

// TestSession_GuardCallsShareOneWrite asks for the guard in many goroutines while etcd is away.
func TestSession_GuardCallsShareOneWrite(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	m := newManager(t, srv.Client(t, parttest.Harden))
	s, err := m.OpenSession(t.Context(), lease.WithTTL(time.Minute))
	require.NoError(t, err)
	srv.Pause()
	start := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { _ = s.Guard() })
	}
	wg.Wait()
	assert.Less(t, time.Since(start), 10*time.Second, "5 s at most, however many ask")
	srv.Resume()
	require.NoError(t, s.Err())
	_, err = etcdtest.Must(kv.New(srv.Client(t))).Put(t.Context(), "k", nil, kv.WithGuard(s))
	require.NoError(t, err, "the next call tries again")
}

// fakeBrokenKV sends no put.
type fakeBrokenKV struct{ clientv3.KV }

func (fakeBrokenKV) Put(context.Context, string, string, ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	return nil, status.Error(codes.Unavailable, "connection reset")
}

// TestSession_GuardErrorIsNotErrUnknownOutcome has the guard's own put fail in a way that leaves
// open what became of it.
func TestSession_GuardErrorIsNotErrUnknownOutcome(t *testing.T) {
	t.Parallel()
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	cli.KV = fakeBrokenKV{cli.KV}
	m := newManager(t, cli, lease.WithNamespace(dir))
	s, err := m.OpenSession(t.Context(), lease.WithTTL(time.Minute))
	require.NoError(t, err)
	_, err = etcdtest.Must(kv.New(etcdtest.Client(t), kv.WithNamespace(dir))).Put(t.Context(), "k", nil, kv.WithGuard(s))
	require.ErrorIs(t, err, kv.ErrGuard)
	require.ErrorContains(t, err, "connection reset")
	require.NotErrorIs(t, err, kv.ErrUnknownOutcome)
}

// TestSession_GuardOfSharedSessionUsesRootNamespace asks for the session from below first.
func TestSession_GuardOfSharedSessionUsesRootNamespace(t *testing.T) {
	t.Parallel()
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	m := newManager(t, cli, lease.WithNamespace(dir))
	s, err := m.Namespace("below").Shared(t.Context())
	require.NoError(t, err)
	_, err = etcdtest.Must(kv.New(cli, kv.WithNamespace(dir))).Put(t.Context(), "k", nil, kv.WithGuard(s))
	require.NoError(t, err)
	info, err := m.Describe(t.Context(), s.ID())
	require.NoError(t, err)
	assert.Empty(t, info.Keys, "it is hidden in the namespace of the manager")
	r, err := cli.TimeToLive(t.Context(), s.ID())
	require.NoError(t, err)
	assert.Positive(t, r.TTL)
}
