package etcdkit_test

import (
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// The race detector finds unsynchronized access to the endpoints.
func TestRaw_SetEndpointsDuringMembers(t *testing.T) {
	t.Parallel()
	at, _, err := net.SplitHostPort(freePort(t))
	require.NoError(t, err)
	pair := func(i int) []string {
		return []string{net.JoinHostPort(at, strconv.Itoa(2*i+1)), net.JoinHostPort(at, strconv.Itoa(2*i+2))}
	}
	c := opened(t, etcdkit.Config{Endpoints: pair(0)})
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-done:
				return
			default:
				c.Raw().SetEndpoints(pair(i % 500)...)
				runtime.Gosched()
			}
		}
	})
	for range 50 {
		_, err := c.Members(t.Context())
		require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	}
	close(done)
	wg.Wait()
}

func TestMembers_ConnectsLikeClientV3(t *testing.T) {
	t.Parallel()
	pki := etcdtest.Certs(t)
	socket := etcdtest.Start(t, etcdtest.WithUnixSocket()).Endpoint()
	plain := etcdtest.Endpoints()[0]
	secure := etcdtest.Start(t, etcdtest.WithTLS(pki.MutualTLS(pki.Server))).Endpoint()
	mine := etcdkit.TLSConfig{CAFile: pki.CAFile, CertFile: pki.Client.CertFile, KeyFile: pki.Client.KeyFile}
	bare := func(ep string) string { return ep[len("https://"):] }
	for name, cfg := range map[string]etcdkit.Config{
		"http":                      {Endpoints: []string{plain}},
		"no scheme":                 {Endpoints: []string{plain[len("http://"):]}},
		"a socket":                  {Endpoints: []string{socket}},
		"https":                     {Endpoints: []string{secure}, TLS: mine},
		"no scheme with TLS":        {Endpoints: []string{bare(secure)}, TLS: mine},
		"a name with a certificate": {Endpoints: []string{"https://localhost" + secure[len("https://127.0.0.1"):]}, TLS: mine},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, err := open(t, cfg).Members(t.Context())
			require.NoError(t, err)
			require.Len(t, all, 1)
			assert.True(t, all[0].Reachable)
		})
	}
}

func TestWrap_ClosesConnectionsToRemovedEndpoints(t *testing.T) {
	t.Parallel()
	cli := etcdtest.NewClient(t, []string{freePort(t)}, func(cfg *clientv3.Config) { require.NoError(t, etcdkit.Harden(cfg)) })
	c, err := etcdkit.Wrap(cli)
	require.NoError(t, err)
	defer func() { assert.NoError(t, c.Close()) }()
	for range 5 {
		cli.SetEndpoints(freePort(t), freePort(t))
		_, err := c.Members(t.Context())
		require.ErrorIs(t, err, etcdkit.ErrUnavailable)
		assert.Equal(t, 2, etcdkit.EndpointConnections(c))
	}
}

// By default gRPC would wait more than four seconds for its next attempt, and later up to two
// minutes.
func TestClient_ReconnectsSoonAfterOutage(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := open(t, etcdkit.Config{Endpoints: s.Endpoints()})
	s.Kill()
	outage := time.NewTimer(10 * time.Second)
	defer outage.Stop()
	<-outage.C
	s.Launch()
	s.WaitReady()
	began := time.Now()
	_, err := c.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err)
	assert.Less(t, time.Since(began), 3*time.Second)
}

func TestMembers_ReconnectsToRecoveredMember(t *testing.T) {
	t.Parallel()
	proxy := etcdtest.Start(t).Proxy(t)
	cli, err := clientv3.New(clientv3.Config{Endpoints: proxy.Endpoints()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cli.Close() })
	c, err := etcdkit.Wrap(cli)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	for range 3 {
		proxy.Refuse()
		proxy.Cut()
		require.Eventually(t, func() bool {
			_, err := c.Members(t.Context())
			return err != nil && strings.Contains(err.Error(), "connection refused")
		}, 10*time.Second, time.Millisecond)
		proxy.Accept()
		members, err := c.Members(t.Context())
		require.NoError(t, err, "without waiting for gRPC's next attempt")
		require.Len(t, members, 1)
		assert.True(t, members[0].Reachable, members[0].Err)
	}
}
