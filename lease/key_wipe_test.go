package lease_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lease"
)

// After etcd has lost its data revisions begin anew, and somebody else's key may have the create
// revision that ours had.
func TestKey_LeavesForeignKeyWithSameRevision(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	m := newManager(t, etcdtest.NewClient(t, proxy.Endpoints()), lease.WithSessionTTL(5*time.Second))
	direct := srv.Client(t)
	k, err := m.OpenKey(t.Context(), "k", []byte("ours")) // the first write of the cluster
	require.NoError(t, err)
	got, err := direct.Get(t.Context(), "k")
	require.NoError(t, err)
	created := got.Kvs[0].CreateRevision

	proxy.Refuse()
	srv.Wipe()
	srv.WaitReady()
	direct = srv.Client(t)
	_, err = direct.Put(t.Context(), "k", "theirs") // the first write of the new one
	require.NoError(t, err)
	proxy.Accept()
	require.Eventually(t, func() bool { return leaseCount(t, direct) == 1 }, 30*time.Second, 10*time.Millisecond, "a new session")
	require.ErrorIs(t, k.Update(t.Context(), []byte("ours again")), lease.ErrExists)
	assert.Equal(t, lease.Suspended, k.State())
	got, err = direct.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, created, got.Kvs[0].CreateRevision, "else this proves nothing")
	assert.Equal(t, "theirs", string(got.Kvs[0].Value))
	assert.EqualValues(t, 1, got.Kvs[0].Version, "it was never touched")

	_, err = direct.Delete(t.Context(), "k")
	require.NoError(t, err)
	waitUntilAlive(t, k)
	require.NoError(t, k.Close())
}
