package etcdkit_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// The package concurrency of client/v3 works over Raw after the tokens of its streams have expired.
// A waiter opens a watch on a stream that is older than any token.
func TestRaw_ConcurrencyPackageSurvivesExpiredToken(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, etcdtest.WithFlags("--auth-token=simple", "--auth-token-ttl=1"))
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "app", Password: "secret", Grants: []etcdtest.Grant{etcdtest.ReadWrite("locks/")}})
	c, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: srv.Endpoints(), Username: "app", Password: etcdkit.NewSecret("secret"), AllowInsecureCredentials: true})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })

	session := func() *concurrency.Session {
		s, err := concurrency.NewSession(c.Raw(), concurrency.WithTTL(10))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, s.Close()) })
		return s
	}
	first, second := concurrency.NewMutex(session(), "locks/a"), concurrency.NewMutex(session(), "locks/a")
	require.NoError(t, first.Lock(t.Context()))
	watching, stop := context.WithCancel(t.Context())
	defer stop()
	c.Raw().Watch(watching, "locks/other") // opens a stream, which keeps its token

	// The token has expired when etcd rejects a new watch of an undecorated client.
	plain := srv.Client(t, etcdtest.As("app", "secret"))
	plain.Watch(watching, "locks/other")
	require.Eventually(t, func() bool {
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		for answer := range plain.Watch(ctx, "locks/other", clientv3.WithCreatedNotify()) {
			return answer.Err() != nil && assert.ErrorContains(t, answer.Err(), rpctypes.ErrorDesc(rpctypes.ErrGRPCInvalidAuthToken))
		}
		return false
	}, 60*time.Second, 3*time.Second) // each use of a token extends it

	got := make(chan error, 1)
	go func() {
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
		defer stop()
		got <- second.Lock(ctx)
	}()
	require.Eventually(t, func() bool { // the second waits and watches the key of the first
		r, err := c.Raw().Get(t.Context(), "locks/a/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && r.Count == 2
	}, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, first.Unlock(t.Context()))
	require.NoError(t, <-got)
	require.NoError(t, second.Unlock(t.Context()))
}
