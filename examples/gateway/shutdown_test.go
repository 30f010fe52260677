package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/examples/settings"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// conn opens a connection to the gateway.
func (g *rig) conn(text string) net.Conn {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	require.NoError(g.t, err)
	_, err = c.Write([]byte(text))
	require.NoError(g.t, err)
	require.NoError(g.t, c.SetDeadline(time.Now().Add(30*time.Second)))
	return c
}

const halfAPut = "PUT " + kvPath + "last HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"value\":"

func TestGateway_StopsInOrder(t *testing.T) {
	t.Parallel()
	g := start(t)
	require.Equal(t, 201, g.do("POST", orders+"/a", instanceOK).status)
	g.instances("orders")
	require.Equal(t, 404, g.do("GET", kvPath+"k?cached=true", "").status)
	etcd := etcdtest.Client(t)
	registered := func() bool {
		r, err := etcd.Get(context.WithoutCancel(t.Context()), g.svc.client.KV().Dir()+"services/orders/instances/a")
		return assert.NoError(t, err) && len(r.Kvs) == 1
	}
	cacheErr := func() error {
		_, err := g.svc.cached.Get(context.WithoutCancel(t.Context()), "k")
		return err
	}
	stopping := make(chan struct{})
	var steps []string
	g.log.tell(func(message string) {
		switch message {
		case "gateway stops":
			close(stopping)
		case "requests drained":
			steps = append(steps, "http")
			_, err := net.Dial("tcp", g.addr)
			assert.Error(t, err, "nobody is let in")
			assert.NotErrorIs(t, cacheErr(), cache.ErrClosed)
			assert.True(t, registered())
		case "watches closed":
			steps = append(steps, "watches")
			assert.ErrorIs(t, cacheErr(), cache.ErrClosed)
			assert.Empty(t, g.watched())
			assert.True(t, registered(), "the instance is there to the end")
		case "registrations closed":
			steps = append(steps, "registrations")
			assert.False(t, registered())
			_, err := g.svc.client.KV().Exists(context.WithoutCancel(t.Context()), "k")
			assert.NoError(t, err, "the client goes on")
		case "client closed":
			steps = append(steps, "client")
			_, err := g.svc.client.KV().Exists(context.WithoutCancel(t.Context()), "k")
			assert.ErrorIs(t, err, etcdkit.ErrClosed)
		}
	})

	under := g.conn(halfAPut) // a request that is under way
	defer under.Close()
	eventually(t, func() bool { return len(g.svc.receiving) == 1 }, "its body is on its way")
	g.cancel()
	<-stopping
	_, err := under.Write([]byte(`"last"}`))
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(under), nil)
	require.NoError(t, err)
	_ = resp.Body.Close()
	assert.Equal(t, 200, resp.StatusCode, "it is finished")
	require.NoError(t, g.stopped())
	assert.Equal(t, []string{"http", "watches", "registrations", "client"}, steps)
}

func TestGateway_CutsOffRequestsAtShutdown(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) { s.Gateway.Limits.Shutdown = etcdkit.Duration(100 * time.Millisecond) })
	under := g.conn(halfAPut)
	defer under.Close()
	eventually(t, func() bool { return len(g.svc.receiving) == 1 }, "its body is on its way")
	g.cancel()
	require.ErrorContains(t, g.stopped(), "cut off")
	assert.Contains(t, g.log.String(), "client closed")
}

func TestGateway_StopsWhileEtcdIsAway(t *testing.T) {
	t.Parallel()
	g, proxy := behind(t)
	require.Equal(t, 201, g.do("POST", orders+"/a", instanceOK).status)
	proxy.Refuse()
	proxy.Cut()
	g.http.CloseIdleConnections()
	began := time.Now()
	g.cancel()
	_ = g.stopped() // the instance is left to its TTL
	assert.Less(t, time.Since(began), 25*time.Second)
	assert.Contains(t, g.log.String(), "client closed")
}

func TestGateway_FinishesRequestsWhenListenerFails(t *testing.T) {
	t.Parallel()
	g := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- g.svc.serveOn(t.Context(), l) }()
	g.addr = l.Addr().String()
	under := g.conn(halfAPut)
	defer under.Close()
	eventually(t, func() bool { return len(g.svc.receiving) == 1 }, "its body is on its way")
	require.NoError(t, l.Close())
	eventually(t, func() bool { return strings.Contains(g.log.String(), "gateway stops") }, "it is noticed")
	_, err = under.Write([]byte(`"last"}`))
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(under), nil)
	require.NoError(t, err)
	_ = resp.Body.Close()
	assert.Equal(t, 200, resp.StatusCode, "it is finished")
	require.ErrorIs(t, <-ended, net.ErrClosed)
	assert.Contains(t, g.log.String(), "requests drained")
}

// withoutEtcd takes from the environment what names an etcd.
func withoutEtcd(t *testing.T) {
	t.Helper()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "ETCD_") {
			t.Setenv(name, "")
		}
	}
}

func TestMain_SecondSignalEndsAtOnce(t *testing.T) {
	if os.Getenv("GATEWAY_ARGS") != "" {
		os.Args = append(os.Args[:1], strings.Fields(os.Getenv("GATEWAY_ARGS"))...)
		main()
		return
	}
	withoutEtcd(t)
	t.Setenv("ETCD_ENDPOINTS", etcdtest.Endpoints()[0])
	t.Setenv("ETCD_NAMESPACE", etcdtest.Prefix(t))
	t.Setenv("GATEWAY_ARGS", "-listen 127.0.0.1:0")
	program := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	out := &sink{}
	program.Stderr = out
	require.NoError(t, program.Start())
	ended := make(chan error, 1)
	go func() { ended <- program.Wait() }()
	eventually(t, func() bool { return listening.MatchString(out.String()) }, "it listens")
	g := &rig{t: t, addr: listening.FindStringSubmatch(out.String())[1], http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	under := g.conn(halfAPut) // which holds the program up
	defer under.Close()
	eventually(t, func() bool {
		return strings.Contains(string(g.do("GET", "/metrics", "").body), "\ngateway_http_requests_in_flight 2\n")
	}, "it is being worked on")
	require.NoError(t, program.Process.Signal(syscall.SIGTERM))
	eventually(t, func() bool { return strings.Contains(out.String(), "gateway stops") }, "it has understood")
	require.NoError(t, program.Process.Signal(syscall.SIGTERM))
	var err error
	eventually(t, func() bool {
		select {
		case err = <-ended:
			return true
		default:
			return false
		}
	}, "it ends")
	require.ErrorContains(t, err, "signal: terminated", "not by itself, which takes 15 s")
}

func TestConfigure_EmbedsEtcdOnlyWithoutConfiguration(t *testing.T) {
	withoutEtcd(t)
	file := filepath.Join(t.TempDir(), "etcd.yaml")
	require.NoError(t, os.WriteFile(file, []byte("gateway: {listen: 127.0.0.1:0}\n"), 0o600))
	embeds := func(args ...string) bool {
		_, does, err := configure(args, io.Discard)
		require.NoError(t, err)
		return does.embed
	}
	assert.True(t, embeds())
	assert.False(t, embeds("-config", file), "the default of the file is an etcd on this machine")
	t.Setenv("ETCD_DISCOVERY_SRV", "example.com")
	assert.False(t, embeds())
}

func TestRun_HelpSucceeds(t *testing.T) {
	out := &sink{}
	require.NoError(t, run(t.Context(), []string{"-h"}, out))
	assert.Contains(t, out.String(), "-token-file")
}

var listening = regexp.MustCompile(`"gateway listens","address":"([^"]+)"`)

func TestRun_StartsEtcdOfItsOwn(t *testing.T) {
	withoutEtcd(t)
	out := &sink{}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	args := []string{"-listen", "127.0.0.1:0", "-token-file", tokenFile(t, secret)}
	wg.Go(func() { assert.NoError(t, run(ctx, args, out)) })
	defer wg.Wait()
	defer cancel()
	eventually(t, func() bool { return listening.MatchString(out.String()) }, "it listens")
	addr := listening.FindStringSubmatch(out.String())[1]
	g := &rig{t: t, addr: addr, token: secret, http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	g.serves()
	require.NoError(t, run(ctx, []string{"-probe", "-listen", addr}, out))
	cancel()
	wg.Wait()
	assert.Contains(t, out.String(), "client closed")
	require.Error(t, run(t.Context(), []string{"-probe", "-listen", addr}, out), "nobody answers any more")
}

func TestRun_RefusesInvalidArguments(t *testing.T) {
	t.Setenv("ETCD_ENDPOINTS", etcdtest.Endpoints()[0])
	t.Setenv("ETCD_CONFIG", "")
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"the world without a token": {[]string{"-listen", "0.0.0.0:0"}, "not a loopback address"},
		"an address that is none":   {[]string{"-listen", "nowhere"}, "nowhere"},
		"a file that is not there":  {[]string{"-config", "none.yaml"}, "none.yaml"},
		"a token that is not there": {[]string{"-token-file", "none"}, "token file"},
		"an argument":               {[]string{"start"}, `"start"`},
		"an unknown flag":           {[]string{"-tls"}, "-tls"},
	} {
		assert.ErrorContains(t, run(t.Context(), c.args, &sink{}), c.says, name)
	}
}

func TestRun_LogsAtTheLevelOfTheFile(t *testing.T) {
	withoutEtcd(t)
	for level, wantInfo := range map[string]bool{"info": true, "error": false} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addr := l.Addr().String()
		require.NoError(t, l.Close())
		file := filepath.Join(t.TempDir(), "etcd.yaml")
		text := "etcd: {endpoints: [" + etcdtest.Endpoints()[0] + "], namespace: " + etcdtest.Prefix(t) + "}\n" +
			"gateway: {listen: \"" + addr + "\"}\nlog: {level: " + level + "}\n"
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		out := &sink{}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { assert.NoError(t, run(ctx, []string{"-config", file}, out)) })
		eventually(t, func() bool { return run(ctx, []string{"-probe", "-listen", addr}, io.Discard) == nil }, "it answers")
		cancel()
		wg.Wait()
		assert.Equal(t, wantInfo, strings.Contains(out.String(), `"level":"INFO"`), "%s: %s", level, out)
	}
}

func TestReachable_ReturnsLocalAddress(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		":8080": "localhost:8080", "0.0.0.0:80": "localhost:80", "[::]:80": "localhost:80", "127.0.0.1:1": "127.0.0.1:1", "gateway:80": "gateway:80",
	} {
		assert.Equal(t, want, reachable(listen))
	}
}
