package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

// instance is a service that a test runs.
type instance struct {
	url   string
	ended chan error
	stop  func()

	mu  sync.Mutex
	log strings.Builder
}

func (i *instance) Write(p []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.log.Write(p)
}

func (i *instance) String() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.log.String()
}

// start runs an instance until the test ends, and returns when it is ready.
func start(t *testing.T, client *etcdkit.Client) *instance {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	i := &instance{url: "http://" + listener.Addr().String(), ended: make(chan error, 1), stop: stop}
	done := make(chan struct{})
	go func() {
		defer close(done)
		i.ended <- serve(ctx, client, listener, i)
	}()
	t.Cleanup(func() {
		stop()
		<-done
		http.DefaultClient.CloseIdleConnections()
	})
	i.awaits(t, "ready on "+i.url)
	return i
}

// awaits waits until the instance has said something.
func (i *instance) awaits(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(i.String(), text) }, 20*time.Second, 5*time.Millisecond, "%s", text)
}

func (i *instance) get(t *testing.T, path string) (int, string) {
	t.Helper()
	resp, err := http.Get(i.url + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, strings.TrimSpace(string(body))
}

func TestService_FollowsItsSetting(t *testing.T) {
	t.Parallel()
	client := etcdtest.Open(t)
	service := start(t, client)
	_, body := service.get(t, "/greet/Ada")
	assert.Equal(t, "Hello, Ada", body)

	_, err := client.KV().Put(t.Context(), "config/greeting", []byte("Good morning"))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, body := service.get(t, "/greet/Ada")
		return body == "Good morning, Ada"
	}, 20*time.Second, 5*time.Millisecond)
}

func TestService_HandsOverAndStopsInOrder(t *testing.T) {
	t.Parallel()
	config := etcdtest.Config(t)
	first := start(t, etcdtest.OpenConfig(t, config))
	first.awaits(t, "\nleading")
	second := start(t, etcdtest.OpenConfig(t, config))

	first.stop()
	require.ErrorIs(t, <-first.ended, context.Canceled)
	assert.True(t, strings.HasSuffix(first.String(), "no longer leading\nstopped in order: true\n"), first.String())
	second.awaits(t, "\nleading")

	registry, err := discovery.New(etcdtest.OpenConfig(t, config))
	require.NoError(t, err)
	defer registry.Close()
	greeter, err := registry.OpenService(t.Context(), "greeter")
	require.NoError(t, err)
	instances := greeter.Instances()
	require.Len(t, instances, 1)
	assert.Equal(t, second.url, "http://"+instances[0].Addr())
}

func TestService_IsNotReadyWithoutEtcd(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	service := start(t, server.Open(t))
	ready := func(want int) func() bool {
		return func() bool {
			code, _ := service.get(t, "/ready")
			return code == want
		}
	}
	require.Eventually(t, ready(http.StatusOK), 20*time.Second, 10*time.Millisecond)
	server.Kill()
	require.Eventually(t, ready(http.StatusServiceUnavailable), 20*time.Second, 10*time.Millisecond)
	_, body := service.get(t, "/greet/Ada")
	assert.Equal(t, "Hello, Ada", body, "it serves with what it knows")
	server.Restart()
	require.Eventually(t, ready(http.StatusOK), 20*time.Second, 10*time.Millisecond)
}

func TestService_StopsOnInterrupt(t *testing.T) {
	exampletest.Interrupt(t, run, "ready on")
}
