package etcdkit_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// open returns a client of Open. It is closed at the end of the test.
func open(t *testing.T, cfg etcdkit.Config, opts ...etcdkit.Option) *etcdkit.Client {
	t.Helper()
	c, err := etcdkit.Open(t.Context(), cfg, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

// freePort returns an address of this machine on which no server listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// silent returns the address of a server that accepts connections but sends nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestOpen_UsesNamespace(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	c := open(t, etcdkit.Config{Endpoints: etcdtest.Endpoints(), Namespace: strings.TrimSuffix(dir, "/")})
	_, err := c.KV().Put(t.Context(), "k", []byte("v"))
	require.NoError(t, err)
	raw, err := c.Raw().Get(t.Context(), dir+"k")
	require.NoError(t, err)
	require.Len(t, raw.Kvs, 1)
	assert.Equal(t, "v", string(raw.Kvs[0].Value))
	assert.Same(t, c.KV(), c.KV(), "every call returns the same store")
}

func TestOpen_UsesOneConnectionForASingleEndpoint(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	etcdtest.EnableAuth(t, s)
	for _, user := range []string{"", "root"} {
		t.Run("user "+user, func(t *testing.T) {
			t.Parallel()
			proxy, count := s.Proxy(t), etcdtest.Counter(t)
			cfg := etcdkit.Config{Endpoints: proxy.Endpoints()}
			want := map[string]int{"KV/Range": 1, "Maintenance/Status": 1}
			if user != "" {
				cfg.Username, cfg.Password = user, etcdkit.NewSecret(etcdtest.RootPassword)
				want["Auth/Authenticate"] = 1
			}
			c, err := etcdkit.Open(t.Context(), cfg, etcdkit.WithDialOptions(count.DialOption()))
			if user == "" {
				require.ErrorIs(t, err, etcdkit.ErrUnauthenticated)
				require.ErrorContains(t, err, proxy.Endpoint())
				return
			}
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, c.Close()) })
			assert.Equal(t, want, count.Counts())
			assert.Equal(t, 1, proxy.Connections())
		})
	}
}

func TestOpen_UsesUnixSocket(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.WithUnixSocket())
	c := open(t, etcdkit.Config{Endpoints: s.Endpoints()})
	_, err := c.KV().Put(t.Context(), "k", []byte("v"))
	require.NoError(t, err)
}

func TestOpen_ReturnsErrorOfEachEndpoint(t *testing.T) {
	t.Parallel()
	a, b := freePort(t), freePort(t)
	began := time.Now()
	_, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: []string{a, "http://" + b}})
	require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	assert.Less(t, time.Since(began), 3*time.Second, "well before the dial timeout")
	assert.ErrorContains(t, err, a+": dial tcp "+a+": connect: connection refused")
	assert.ErrorContains(t, err, "http://"+b+": dial tcp "+b+": connect: connection refused")
	one, ok := errors.AsType[*etcdkit.EndpointError](err)
	require.True(t, ok)
	assert.Equal(t, a, one.Endpoint)
	assert.True(t, etcdkit.SafeToRetry(err))
	assert.NotContains(t, err.Error(), "\n")
}

func TestOpen_ReturnsAfterDialTimeout(t *testing.T) {
	t.Parallel()
	ep := silent(t)
	began := time.Now()
	_, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: []string{ep}, DialTimeout: etcdkit.Duration(300 * time.Millisecond)})
	require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, ep)
	assert.Less(t, time.Since(began), 3*time.Second)
}

func TestOpen_ReturnsCauseOfContext(t *testing.T) {
	t.Parallel()
	why := errors.New("shutting down")
	ctx, stop := context.WithCancelCause(t.Context())
	stop(why)
	_, err := etcdkit.Open(ctx, etcdkit.Config{Endpoints: []string{silent(t)}})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, why)
}

func TestOpen_EvictsDeadEndpointWithoutDelay(t *testing.T) {
	t.Parallel()
	live := etcdtest.Endpoints()[0]
	for name, dead := range map[string]string{"one that refuses": freePort(t), "one that is silent": silent(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			log := &etcdtest.Log{}
			c := open(t, etcdkit.Config{Endpoints: []string{dead, live}}, etcdkit.WithLogger(log.Logger()))
			assert.Less(t, time.Since(began), 3*time.Second)
			assert.Equal(t, []string{live}, c.Raw().Endpoints(), "the one that answers is in use")
			assert.Equal(t, []string{dead, live}, c.Stats().Endpoints)
			assert.Equal(t, []string{dead}, c.Stats().Evicted)
			assert.EqualValues(t, 1, c.Stats().Evictions)
			assert.Contains(t, log.String(), "etcd endpoint evicted")
			assert.Contains(t, log.String(), "endpoint="+dead)
			assert.Contains(t, log.String(), "error=")
			for range 10 {
				_, err := c.KV().Exists(t.Context(), "k")
				require.NoError(t, err)
			}
		})
	}
}

func TestOpen_ReturnsCauseOfTLSFailure(t *testing.T) {
	t.Parallel()
	pki := etcdtest.Certs(t)
	elsewhere := pki.ClientConfig(etcdtest.KeyPair{})
	elsewhere.ServerName = "elsewhere.example"
	plain := strings.Replace(etcdtest.Endpoints()[0], "http://", "", 1)
	serve := func(tls etcdtest.TLS) string { return etcdtest.Start(t, etcdtest.WithTLS(tls)).Endpoint() }
	other := serve(etcdtest.TLS{Server: pki.WrongName, Client: elsewhere})
	good, mutual := serve(pki.TLS(pki.Server)), serve(pki.MutualTLS(pki.Server))
	ca := etcdkit.TLSConfig{CAFile: pki.CAFile}
	with := func(pair etcdtest.KeyPair) etcdkit.TLSConfig {
		return etcdkit.TLSConfig{CAFile: pki.CAFile, CertFile: pair.CertFile, KeyFile: pair.KeyFile}
	}
	named := func(name string) etcdkit.TLSConfig { return etcdkit.TLSConfig{CAFile: pki.CAFile, ServerName: name} }
	for _, tt := range []struct {
		name, ep string
		tls      etcdkit.TLSConfig
		cause    string // "" if Open succeeds
	}{
		{"the right CA works", good, ca, ""},
		{"a client certificate works", mutual, with(pki.Client), ""},
		{"another name than the endpoint's works if it is told", other, named("elsewhere.example"), ""},
		{"another name than the endpoint's alone", other, ca, "doesn't contain any IP SANs"},
		{"no verification works, for tests", good, etcdkit.TLSConfig{InsecureSkipVerifyForTests: true}, ""},
		{"another CA", good, etcdkit.TLSConfig{CAFile: pki.OtherCAFile}, "x509: certificate signed by unknown authority"},
		{"the system's CAs", good, etcdkit.TLSConfig{}, "x509: certificate signed by unknown authority"},
		{"an expired certificate", serve(etcdtest.TLS{Server: pki.Expired, Client: pki.ClientConfig(etcdtest.KeyPair{})}), ca, "x509: certificate has expired"},
		{"the wrong name", good, named("elsewhere"), "x509: certificate is valid for localhost, not elsewhere"},
		{"no client certificate", mutual, ca, "tls: certificate required"},
		{"a client certificate of another CA", mutual, with(pki.OtherClient), "tls: unknown certificate authority"},
		{"TLS to a plain server", "https://" + plain, ca, "does the server speak TLS?"},
		{"plain to a TLS server", strings.Replace(good, "https", "http", 1), etcdkit.TLSConfig{}, "does the server expect TLS?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			c, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: []string{tt.ep}, TLS: tt.tls})
			if tt.cause == "" {
				require.NoError(t, err)
				require.NoError(t, c.Close())
				return
			}
			require.ErrorIs(t, err, etcdkit.ErrUnavailable)
			assert.Less(t, time.Since(began), 3*time.Second)
			assert.ErrorContains(t, err, tt.cause)
			assert.ErrorContains(t, err, tt.ep)
		})
	}
}

func TestOpenLazy_WorksOnceServerIsUp(t *testing.T) {
	t.Parallel()
	for _, secured := range []bool{false, true} {
		t.Run(fmt.Sprintf("with a password: %v", secured), func(t *testing.T) {
			t.Parallel()
			s := etcdtest.Start(t)
			cfg := etcdkit.Config{Endpoints: s.Endpoints()}
			if secured {
				etcdtest.EnableAuth(t, s)
				cfg.Username, cfg.Password = "root", etcdkit.NewSecret(etcdtest.RootPassword)
			}
			s.Kill()
			began := time.Now()
			c := opened(t, cfg)
			assert.Less(t, time.Since(began), time.Second)
			ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer stop()
			_, err := c.KV().Put(ctx, "k", []byte("v"))
			require.ErrorIs(t, err, etcdkit.ErrUnavailable)
			require.ErrorContains(t, err, "connection refused")
			assert.True(t, etcdkit.SafeToRetry(err), "it was not sent: %v", err)
			s.Restart()
			_, err = c.KV().Put(t.Context(), "k", []byte("v"))
			require.NoError(t, err)
		})
	}
}

func TestConfig_TimeoutsBoundCallsWithoutDeadline(t *testing.T) {
	t.Parallel()
	c := opened(t, etcdkit.Config{
		Endpoints:   []string{freePort(t)},
		ReadTimeout: etcdkit.Duration(200 * time.Millisecond), WriteTimeout: etcdkit.Duration(300 * time.Millisecond),
	})
	began := time.Now()
	_, err := c.KV().Get(context.WithoutCancel(t.Context()), "k")
	require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = c.KV().Put(context.WithoutCancel(t.Context()), "k", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	took := time.Since(began)
	assert.GreaterOrEqual(t, took, 500*time.Millisecond)
	assert.Less(t, took, 5*time.Second)
}

func TestLoadConfig_ResultOpens(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	path := filepath.Join(t.TempDir(), "etcd.yaml")
	require.NoError(t, os.WriteFile(path, []byte("endpoints: ["+strings.Join(etcdtest.Endpoints(), ", ")+"]\nnamespace: "+dir+"\n"), 0o600))
	cfg, err := etcdkit.LoadConfig(path)
	require.NoError(t, err)
	_, err = open(t, cfg).KV().Put(t.Context(), "k", nil)
	require.NoError(t, err)
}

func TestWithDialOptions_AreUsed(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	c := open(t, etcdkit.Config{Endpoints: etcdtest.Endpoints()}, etcdkit.WithDialOptions(count.DialOption(), grpc.WithUserAgent("orders")))
	count.Reset()
	_, err := c.KV().Exists(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, 1, count.Count("KV/Range"))
}

func TestRaw_SetEndpointsDuringCalls(t *testing.T) {
	t.Parallel()
	first := etcdtest.Endpoints()[0]
	second := strings.Replace(first, "127.0.0.1", "localhost", 1)
	require.NotEqual(t, first, second)
	c := open(t, etcdkit.Config{Endpoints: []string{first, second}, Namespace: etcdtest.Prefix(t)})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for range 50 {
				if _, err := c.KV().Put(t.Context(), strconv.Itoa(i), nil); !assert.NoError(t, err) {
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	sets := [][]string{{first}, {second}, {first, second}, {second, first}}
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
			c.Raw().SetEndpoints(sets[i%len(sets)]...)
			runtime.Gosched()
		}
	}
}
