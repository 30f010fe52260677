package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// FuzzGateway_RawRequests sends bytes as they are. Whatever they are, no handler panics, no answer
// is a failure of the gateway that the protocol does not explain, and no key outside of the
// namespace changes.
func FuzzGateway_RawRequests(f *testing.F) {
	body := `{"value": "v"}`
	for _, request := range []string{
		"GET /api/etcd/kv/a HTTP/1.1", "PUT /api/etcd/kv/a HTTP/1.1", "DELETE /api/etcd/kv/a HTTP/1.1", "POST /api/etcd/kv/cas/a HTTP/1.1",
		"GET /api/etcd/kv?key=a HTTP/1.1", "PUT /api/etcd/kv?key=..%2Fa HTTP/1.1", "GET /api/etcd/kv/prefix/ HTTP/1.1",
		"GET /api/etcd/kv/prefix/a?limit=1&cursor=x HTTP/1.1", "DELETE /api/etcd/kv/prefix/a HTTP/1.1", "GET /api/etcd/services HTTP/1.1",
		"GET /api/etcd/services/a/instances HTTP/1.1", "PUT /api/etcd/services/a/instances/b HTTP/1.1", "GET /api/etcd/health HTTP/1.1",
		"GET /metrics HTTP/1.1", "OPTIONS * HTTP/1.1", "PUT //api/etcd/kv/../a HTTP/1.1", "PUT /api/etcd/kv/%2e%2e%2fa HTTP/1.1",
		"GET /api/etcd/kv/%00 HTTP/1.1", "GET http://localhost/api/etcd/kv/a HTTP/1.0", "PRI * HTTP/2.0",
	} {
		head := request + "\r\nHost: localhost\r\nContent-Type: application/json\r\n"
		f.Add([]byte(head + "Content-Length: 14\r\n\r\n" + body))
		f.Add([]byte(head + "Transfer-Encoding: chunked\r\n\r\ne\r\n" + body + "\r\n0\r\n\r\n"))
	}
	g := start(f)
	outside := etcdtest.Prefix(f)
	cli := etcdtest.Client(f)
	_, err := cli.Put(f.Context(), outside+"key", "untouched")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, request []byte) {
		before, err := cli.Get(t.Context(), outside+"key")
		require.NoError(t, err)
		for _, status := range g.statuses(t, request) {
			explained := status < 500 || status == http.StatusNotImplemented || status == http.StatusHTTPVersionNotSupported
			assert.True(t, explained, "%d for %q", status, request)
		}
		after, err := cli.Get(t.Context(), outside+"key")
		require.NoError(t, err)
		assert.Equal(t, before.Kvs, after.Kvs, "%q", request)
		assert.NotContains(t, g.log.String(), "request panicked", "%q", request)
		g.log.clear()
	})
}

// statuses sends bytes and returns the statuses of the answers that arrive soon.
func (g *rig) statuses(t *testing.T, request []byte) (all []int) {
	t.Helper()
	conn, err := net.Dial("tcp", g.addr)
	require.NoError(t, err)
	defer conn.Close()
	// A stream of changes does not end, and half a request has no answer. The connection stays open
	// both ways: a client that hangs up ends its requests.
	require.NoError(t, conn.SetDeadline(time.Now().Add(300*time.Millisecond)))
	if _, err := conn.Write(request); err != nil {
		return nil // refused before it was read
	}
	method, _, _ := strings.Cut(string(request), " ")
	for in := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return all
		}
		all = append(all, resp.StatusCode)
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return all
		}
		method = http.MethodGet
		require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Millisecond))) // for the answer to what follows
	}
}

func (s *sink) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Reset()
}
