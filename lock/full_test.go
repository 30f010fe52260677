package lock_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

// A full server rejects every write until an operator frees space, so waiting is useless.
func TestMutex_LockFailsWhenServerIsFull(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, etcdtest.WithFlags("--quota-backend-bytes=16777216"))
	count := etcdtest.Counter(t)
	l, p := lockerOver(t, srv.Client(t, count.Option, harden), "app")
	held, err := l.Mutex("before").Lock(t.Context())
	require.NoError(t, err)
	for err == nil {
		_, err = p.cli.Put(t.Context(), "key", strings.Repeat("x", 1<<20))
	}
	require.ErrorIs(t, err, rpctypes.ErrNoSpace)

	count.Reset()
	_, err = l.Mutex("after").Lock(t.Context())
	require.ErrorIs(t, err, lock.ErrUnavailable)
	require.ErrorIs(t, err, rpctypes.ErrNoSpace)
	require.NotErrorIs(t, err, lock.ErrUnknownOutcome)
	assert.NotContains(t, err.Error(), "unknown")
	assert.LessOrEqual(t, count.Count("KV/Txn"), 2, "it is asked once, and what that may have left is removed: %v", count.Counts())
	require.NoError(t, held.Release(t.Context()), "room can be made")
}
