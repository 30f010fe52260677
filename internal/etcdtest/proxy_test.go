//go:build unix

package etcdtest_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func newClientOf(t *testing.T, p *etcdtest.Proxy) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: p.Endpoints(), Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// echo is a server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return "http://" + l.Addr().String()
}

func dial(t *testing.T, p *etcdtest.Proxy) net.Conn {
	t.Helper()
	c, err := tryDial(t, p)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func tryDial(t *testing.T, p *etcdtest.Proxy) (net.Conn, error) {
	t.Helper()
	u, err := url.Parse(p.Endpoint())
	require.NoError(t, err)
	return net.Dial("tcp", u.Host)
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	_, err := c.Write([]byte(text))
	require.NoError(t, err)
}

func hears(t *testing.T, c net.Conn, text string) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	buf := make([]byte, len(text))
	_, err := io.ReadFull(c, buf)
	require.NoError(t, err)
	assert.Equal(t, text, string(buf))
}

func hearsNothing(t *testing.T, c net.Conn) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	n, err := c.Read(make([]byte, 1))
	assert.Zero(t, n)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	assert.True(t, timeout.Timeout(), "%v", err)
}

func isCut(t *testing.T, c net.Conn) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err := c.Read(make([]byte, 1))
	require.Error(t, err)
	var timeout net.Error
	if assert.ErrorAs(t, err, &timeout) {
		assert.False(t, timeout.Timeout(), "%v", err)
	}
}

func TestProxy_PassesBytes(t *testing.T) {
	t.Parallel()
	p := etcdtest.NewProxy(t, echo(t))
	a, b := dial(t, p), dial(t, p)
	send(t, a, "one")
	send(t, b, "two")
	hears(t, a, "one")
	hears(t, b, "two")
	assert.Equal(t, 2, p.Connections())

	require.NoError(t, a.Close())
	assert.Eventually(t, func() bool { return p.Connections() == 1 }, 5*time.Second, time.Millisecond)
}

func TestProxy_RefuseKeepsOpenConnections(t *testing.T) {
	t.Parallel()
	p := etcdtest.NewProxy(t, echo(t))
	c := dial(t, p)
	send(t, c, "before")
	hears(t, c, "before")

	p.Refuse()
	_, err := tryDial(t, p)
	require.ErrorContains(t, err, "refused")
	send(t, c, "still")
	hears(t, c, "still")

	p.Accept()
	c = dial(t, p)
	send(t, c, "again")
	hears(t, c, "again")
}

func TestProxy_CutClosesAllConnections(t *testing.T) {
	t.Parallel()
	p := etcdtest.NewProxy(t, echo(t))
	a, b := dial(t, p), dial(t, p)
	for _, c := range []net.Conn{a, b} {
		send(t, c, "x")
		hears(t, c, "x")
	}
	p.Cut()
	isCut(t, a)
	isCut(t, b)
	c := dial(t, p)
	send(t, c, "new")
	hears(t, c, "new")
}

func TestProxy_BlackholeDropsBytesSilently(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		up, down bool
		arrives  int64 // bytes at the server
	}{
		"what goes up":       {up: true, arrives: 0},
		"what comes down":    {down: true, arrives: 4},
		"what goes any way":  {up: true, down: true, arrives: 0},
		"on new connections": {up: true, arrives: 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.NewProxy(t, echo(t)) // counts what arrives
			var arrived atomic.Int64
			p := etcdtest.NewProxy(t, server.Endpoint())
			c := dial(t, p)
			if name != "on new connections" {
				send(t, c, "x")
				hears(t, c, "x")
			}
			server.OnUp(func(b []byte) { arrived.Add(int64(len(b))) })

			p.Blackhole(tc.up, tc.down)
			send(t, c, "lost")
			hearsNothing(t, c)
			assert.Equal(t, tc.arrives, arrived.Load())

			p.Heal()
			isCut(t, c)
			c = dial(t, p)
			send(t, c, "found")
			hears(t, c, "found")
		})
	}
}

func TestProxy_BlackholeHidesClosedPeer(t *testing.T) {
	t.Parallel()
	server := etcdtest.NewProxy(t, echo(t))
	p := etcdtest.NewProxy(t, server.Endpoint())
	c := dial(t, p)
	send(t, c, "x")
	hears(t, c, "x")

	p.Blackhole(false, true)
	server.Cut()
	hearsNothing(t, c)
	p.Heal()
	isCut(t, c)
}

func TestProxy_IdleConnectionSurvivesBlackhole(t *testing.T) {
	t.Parallel()
	p := etcdtest.NewProxy(t, echo(t))
	c := dial(t, p)
	send(t, c, "x")
	hears(t, c, "x")
	p.Blackhole(true, true)
	p.Blackhole(false, false)
	send(t, c, "y")
	hears(t, c, "y")
}

func TestProxy_HoldKeepsOrder(t *testing.T) {
	t.Parallel()
	p := etcdtest.NewProxy(t, echo(t))
	c := dial(t, p)
	for _, way := range []struct{ up, down bool }{{up: true}, {down: true}, {up: true, down: true}} {
		p.Hold(way.up, way.down)
		send(t, c, "held ")
		send(t, c, "back")
		hearsNothing(t, c)
		p.Hold(false, false)
		hears(t, c, "held back")
	}
}

func TestProxy_DelayAppliesInEachDirection(t *testing.T) {
	t.Parallel()
	const delay = 30 * time.Millisecond
	p := etcdtest.NewProxy(t, echo(t))
	c := dial(t, p)
	p.Delay(delay)
	start := time.Now()
	send(t, c, "slow")
	hears(t, c, "slow")
	assert.GreaterOrEqual(t, time.Since(start), 2*delay)
}

func TestProxy_CallbackControlsItsBytes(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := srv.Proxy(t)
	cli := newClientOf(t, p)
	put(t, cli, "warm")

	p.OnUp(func([]byte) { p.Blackhole(false, true) }) // the request passes, its answer does not
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := cli.Put(ctx, "key", "value")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.EqualValues(t, 1, count(t, srv.Client(t), "key"), "the write was applied")

	p.OnUp(nil)
	p.Heal()
	assert.EqualValues(t, 1, count(t, cli, "key"))
}

func TestProxy_CallbacksSeeEveryByte(t *testing.T) {
	t.Parallel()
	p := etcdtest.NewProxy(t, echo(t))
	var sent, received atomic.Int64
	p.OnUp(func(b []byte) { sent.Add(int64(len(b))) })
	p.OnDown(func(b []byte) { received.Add(int64(len(b))) })
	c := dial(t, p)
	send(t, c, "12345")
	hears(t, c, "12345")
	assert.EqualValues(t, 5, sent.Load())
	assert.EqualValues(t, 5, received.Load())
}

func TestProxy_ConcurrentFaults(t *testing.T) {
	t.Parallel()
	p := etcdtest.NewProxy(t, echo(t))
	faults := []func(){
		p.Refuse, p.Accept, p.Cut, p.Heal,
		func() { p.Blackhole(true, false) }, func() { p.Blackhole(false, true) }, func() { p.Hold(true, true) },
		func() { p.Delay(time.Millisecond) }, func() { p.OnUp(func([]byte) { p.Connections() }) }, func() { p.OnDown(nil) },
	}
	var wg sync.WaitGroup
	for _, fault := range faults {
		wg.Go(func() {
			for range 50 {
				fault()
			}
		})
	}
	for range 10 {
		wg.Go(func() {
			for range 50 {
				c, err := tryDial(t, p)
				if err != nil {
					continue
				}
				_, _ = c.Write([]byte("x")) // whether it arrives is not the point
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	p.OnUp(nil)
	p.Heal()
	c := dial(t, p)
	send(t, c, "well")
	hears(t, c, "well")
}
