package etcdkit_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

func TestLogin_BacksOffWhileThePasswordIsRefused(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	log := &etcdtest.Log{}
	c := open(t, asApp(s), etcdkit.WithLogger(log.Logger()))
	_, err := c.Watcher().Subscribe(watch.Key("k"), func(context.Context, watch.Batch) error { return nil }, watch.WithSnapshot())
	require.NoError(t, err)
	session, err := c.Leases().OpenSession(t.Context(), lease.WithTTL(30*time.Second))
	require.NoError(t, err)
	root := asRoot(t, s)
	_, err = root.UserChangePassword(t.Context(), "app", "the next one")
	require.NoError(t, err)
	s.Restart()

	before := c.Stats()
	const busy = 5 * time.Second
	for began := time.Now(); time.Since(began) < busy; time.Sleep(5 * time.Millisecond) {
		_, err := c.KV().Put(t.Context(), "k", nil)
		require.Error(t, err)
	}
	after := c.Stats()
	assert.Positive(t, after.LoginFailures-before.LoginFailures)
	assert.LessOrEqual(t, after.Logins-before.Logins, uint64(8), "pauses of 0.5 s, 1 s, 2 s at least") // and logins that the restart cut
	_, err = c.KV().Put(t.Context(), "k", nil)
	require.ErrorIs(t, err, etcdkit.ErrUnauthenticated)
	assert.Equal(t, 1, log.Count("level=WARN msg=\"etcd rejects the login\""))

	_, err = s.Client(t, etcdtest.As("root", etcdtest.RootPassword)).UserChangePassword(t.Context(), "app", planted)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := c.KV().Put(t.Context(), "k", nil)
		return err == nil
	}, 40*time.Second, 10*time.Millisecond)
	assert.Equal(t, 1, log.Count("level=WARN msg=\"etcd accepts the login again\""))
	assert.NoError(t, session.Err())
}

func TestLogin_TriesOtherCredentialsAtOnce(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	password := make(chan string, 1)
	password <- "wrong"
	cfg := asApp(s)
	cfg.Username, cfg.Password = "", etcdkit.Secret{}
	c := opened(t, cfg, etcdkit.WithCredentials(func(context.Context) (string, string, error) {
		p := <-password
		password <- p
		return "app", p, nil
	}))
	for range 10 {
		_, err := c.KV().Put(t.Context(), "k", nil)
		require.ErrorIs(t, err, etcdkit.ErrUnauthenticated)
	}
	<-password
	password <- planted
	_, err := c.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err)
}
