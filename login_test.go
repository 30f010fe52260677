package etcdkit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit"
	testkit "github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

const authenticate = "Auth/Authenticate"

// guarded returns a server with authentication, on which the user "app" has access to "app/".
func guarded(t *testing.T, flags ...string) *etcdtest.Server {
	t.Helper()
	s := etcdtest.Start(t, etcdtest.WithFlags(flags...))
	etcdtest.EnableAuth(t, s, etcdtest.User{Name: "app", Password: planted, Grants: []etcdtest.Grant{etcdtest.ReadWrite("app/")}})
	return s
}

func asApp(s *etcdtest.Server) etcdkit.Config {
	return etcdkit.Config{Endpoints: s.Endpoints(), Username: "app", Password: etcdkit.NewSecret(planted), Namespace: "app"}
}

// asRoot returns a client of the user root.
func asRoot(t *testing.T, s *etcdtest.Server) *clientv3.Client {
	t.Helper()
	return s.Client(t, etcdtest.As("root", etcdtest.RootPassword))
}

func TestLogin_PermissionsAreThoseOfUser(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	c := open(t, asApp(s))
	_, err := c.KV().Put(t.Context(), "k", []byte("v"))
	require.NoError(t, err)
	_, err = c.Raw().Put(t.Context(), "elsewhere", "v")
	require.Error(t, err)
	cfg := asApp(s)
	cfg.Namespace = ""
	outside := open(t, cfg)
	_, err = outside.KV().Get(t.Context(), "elsewhere")
	require.ErrorIs(t, err, etcdkit.ErrPermission)
	assert.True(t, etcdkit.SafeToRetry(err))
}

func TestOpen_WrongPasswordCausesFewLogins(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	cfg, count := asApp(s), etcdtest.Counter(t)
	cfg.Password = etcdkit.NewSecret("wrong-" + planted)
	began := time.Now()
	_, err := etcdkit.Open(t.Context(), cfg, etcdkit.WithDialOptions(count.DialOption()))
	require.ErrorIs(t, err, etcdkit.ErrUnauthenticated)
	assert.NotErrorIs(t, err, etcdkit.ErrUnavailable)
	assert.Less(t, time.Since(began), 3*time.Second)
	assert.LessOrEqual(t, count.Count(authenticate), 2)
	assert.ErrorContains(t, err, s.Endpoint())
	assertHides(t, err.Error())
}

func TestLogin_DeletedUserCausesFewLogins(t *testing.T) {
	t.Parallel()
	s, count := guarded(t), etcdtest.Counter(t)
	c := open(t, asApp(s), etcdkit.WithDialOptions(count.DialOption()))
	_, err := asRoot(t, s).UserDelete(t.Context(), "app")
	require.NoError(t, err)
	for range 3 {
		count.Reset()
		_, err = c.KV().Get(t.Context(), "k")
		require.ErrorIs(t, err, etcdkit.ErrUnauthenticated)
		assert.LessOrEqual(t, count.Count(authenticate), 2)
		count.Reset()
		_, err = c.KV().Put(t.Context(), "k", nil)
		require.ErrorIs(t, err, etcdkit.ErrUnauthenticated)
		assert.True(t, etcdkit.SafeToRetry(err))
		assert.LessOrEqual(t, count.Count(authenticate), 2)
	}
	assert.Positive(t, c.Stats().LoginFailures)
}

func TestLogin_IsSharedByConcurrentCalls(t *testing.T) {
	t.Parallel()
	s, count := guarded(t), etcdtest.Counter(t)
	c := opened(t, asApp(s), etcdkit.WithDialOptions(count.DialOption()))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := c.KV().Put(t.Context(), "k", nil)
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	assert.Equal(t, 1, count.Count(authenticate))
	assert.Equal(t, uint64(1), c.Stats().Logins)
}

func TestLogin_CoversRangeStreams(t *testing.T) {
	testkit.Requires(t, testkit.RangeStream)
	t.Parallel()
	s, count := guarded(t), etcdtest.Counter(t)
	c := opened(t, asApp(s), etcdkit.WithDialOptions(count.DialOption()))
	for range 5 {
		stream, err := c.Raw().GetStream(t.Context(), "app/", clientv3.WithPrefix())
		require.NoError(t, err)
		for part := range stream {
			require.NoError(t, part.Err())
		}
	}
	assert.Equal(t, 1, count.Count(authenticate))
}

func TestLogin_PanicDoesNotBlockOtherCalls(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	var broken atomic.Bool
	broken.Store(true)
	c := opened(t, asApp(s), etcdkit.WithDialOptions(grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if strings.HasSuffix(method, authenticate) && broken.Swap(false) {
				panic("an interceptor of the user's")
			}
			return invoke(ctx, method, req, reply, cc, opts...)
		})))
	assert.Panics(t, func() { _, _ = c.KV().Get(t.Context(), "k") })
	_, err := c.KV().Get(t.Context(), "k")
	require.ErrorIs(t, err, kv.ErrNotFound)
}

func TestClient_CloseIsBoundedWithHangingCredentials(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	asked := make(chan struct{})
	c, err := etcdkit.OpenLazy(etcdkit.Config{Endpoints: etcdtest.Endpoints()}, etcdkit.WithCredentials(func(context.Context) (string, string, error) {
		close(asked)
		<-release
		return "", "", errors.New("too late")
	}))
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := c.KV().Get(t.Context(), "k")
		assert.ErrorIs(t, err, etcdkit.ErrClosed)
	})
	<-asked
	began := time.Now()
	require.NoError(t, c.Close())
	wg.Wait()
	assert.Less(t, time.Since(began), 4*time.Second)
}

func TestConfig_TokenIsNotKeptInSettings(t *testing.T) {
	t.Parallel()
	assert.Empty(t, etcdkit.Token(opened(t, etcdkit.Config{Token: etcdkit.NewSecret(planted)})))
}

func TestLogin_ReplacesExpiredToken(t *testing.T) {
	t.Parallel()
	s := guarded(t, "--auth-token-ttl=1")
	root := asRoot(t, s)
	count := etcdtest.Counter(t)
	c := open(t, asApp(s), etcdkit.WithDialOptions(count.DialOption()))
	lapse := func() {
		// Setting the same password again invalidates the tokens of the user.
		_, err := root.UserChangePassword(t.Context(), "app", planted)
		require.NoError(t, err)
		count.Reset()
	}
	lapse()
	_, err := c.KV().Put(t.Context(), "k", []byte("v"))
	require.NoError(t, err)
	assert.Equal(t, 1, count.Count(authenticate))
	lapse()
	_, err = c.Raw().Put(t.Context(), "app/k", "v")
	require.NoError(t, err, "also over Raw")
	lapse()
	if err := watchOnce(t, c); err != nil {
		// A stream opened within a second of a login has its token. The next stream gets a new one.
		require.ErrorContains(t, err, "invalid auth token")
		require.NoError(t, watchOnce(t, c))
	}
	lapse()
	granted, err := c.Raw().Grant(t.Context(), 60)
	require.NoError(t, err)
	_, err = c.Raw().KeepAliveOnce(t.Context(), granted.ID)
	require.NoError(t, err)
}

// watchOnce opens a watch on a new stream.
func watchOnce(t *testing.T, c *etcdkit.Client) error {
	t.Helper()
	w := clientv3.NewWatcher(c.Raw())
	defer w.Close()
	created := <-w.Watch(t.Context(), "app/k", clientv3.WithCreatedNotify())
	assert.True(t, created.Created || created.Err() != nil)
	return created.Err()
}

func TestConfig_PasswordFileIsReadForEachLogin(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte(planted+"\n"), 0o600))
	cfg := asApp(s)
	cfg.Password, cfg.PasswordFile = etcdkit.Secret{}, file
	c := open(t, cfg)
	_, err := asRoot(t, s).UserChangePassword(t.Context(), "app", "the next one")
	require.NoError(t, err)
	_, err = c.KV().Put(t.Context(), "k", nil)
	require.ErrorIs(t, err, etcdkit.ErrUnauthenticated, "the file still has the old password")
	require.NoError(t, os.WriteFile(file, []byte("the next one"), 0o600))
	_, err = c.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err)
	require.NoError(t, os.Remove(file))
	_, err = c.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err, "the file is only read for logins")
}

func TestWithCredentials_ErrorFailsTheCall(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	vault := errors.New("the vault is sealed")
	var sealed atomic.Bool
	sealed.Store(true)
	cfg := asApp(s)
	cfg.Username, cfg.Password = "", etcdkit.Secret{}
	c := opened(t, cfg, etcdkit.WithCredentials(func(context.Context) (string, string, error) {
		if sealed.Load() {
			return "", "", vault
		}
		return "app", planted, nil
	}))
	_, err := c.KV().Put(t.Context(), "k", nil)
	require.ErrorIs(t, err, etcdkit.ErrUnauthenticated)
	require.ErrorIs(t, err, vault)
	assert.True(t, etcdkit.SafeToRetry(err), "%v", err)
	sealed.Store(false)
	_, err = c.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err)
}

func TestLogin_SucceedsWithoutAuthentication(t *testing.T) {
	t.Parallel()
	s, count := etcdtest.Start(t), etcdtest.Counter(t)
	cfg := etcdkit.Config{Endpoints: s.Endpoints(), Username: "app", Password: etcdkit.NewSecret(planted)}
	c := open(t, cfg, etcdkit.WithDialOptions(count.DialOption()))
	for range 5 {
		_, err := c.KV().Put(t.Context(), "k", nil)
		require.NoError(t, err)
	}
	assert.Equal(t, 1, count.Count(authenticate))
	etcdtest.EnableAuth(t, s, etcdtest.User{Name: "app", Password: planted, Grants: []etcdtest.Grant{etcdtest.ReadWrite("k")}})
	_, err := c.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err, "it logs in after authentication was enabled")
}

func TestConfig_TokenIsSentUnchanged(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	got, err := asRoot(t, s).Authenticate(t.Context(), "app", planted)
	require.NoError(t, err)
	c := open(t, etcdkit.Config{Endpoints: s.Endpoints(), Token: etcdkit.NewSecret(got.Token), Namespace: "app"})
	_, err = c.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err)
	_, err = etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: s.Endpoints(), Token: etcdkit.NewSecret(planted)})
	require.ErrorIs(t, err, etcdkit.ErrUnauthenticated)
	assertHides(t, err.Error())
}

func TestWithCredentials_ContextHasNoCallerValues(t *testing.T) {
	t.Parallel()
	type key struct{}
	s := guarded(t)
	cfg := asApp(s)
	cfg.Username, cfg.Password = "", etcdkit.Secret{}
	seen := make(chan any, 1)
	c := opened(t, cfg, etcdkit.WithCredentials(func(ctx context.Context) (string, string, error) {
		seen <- ctx.Value(key{})
		return "app", planted, nil
	}))
	_, err := c.KV().Put(context.WithValue(t.Context(), key{}, "one caller's"), "k", nil, kv.WithTTL(time.Minute))
	require.NoError(t, err)
	assert.Nil(t, <-seen)
}

func TestLogin_BacksOffIfPasswordIsRejected(t *testing.T) {
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
	// And logins interrupted by the restart.
	assert.LessOrEqual(t, after.Logins-before.Logins, uint64(8), "pauses of 0.5 s, 1 s, 2 s at least")
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

func TestLogin_TriesChangedCredentialsAtOnce(t *testing.T) {
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
