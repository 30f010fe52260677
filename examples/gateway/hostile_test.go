package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/settings"
)

// everything is what the namespace holds.
func (g *rig) everything() map[string][]byte {
	g.t.Helper()
	all, err := g.svc.client.KV().Map(g.t.Context(), "")
	require.NoError(g.t, err)
	return all
}

func TestGateway_NoPathReachesAnotherKey(t *testing.T) {
	t.Parallel()
	g := start(t)
	for _, key := range []string{"a/b", "b", "a", "secret", "x/secret"} {
		require.Equal(t, 200, g.do("PUT", kvPath+key, `{"value": "`+key+`"}`).status)
	}
	before := g.everything()
	for _, path := range []string{
		"//api/etcd/kv/b", "/api//etcd/kv/b", "/api/etcd//kv/b", "/api/etcd/kv//b", "/api/etcd/kv/a//b", "/api/etcd/kv/b/", "/api/etcd/kv/b//",
		"/api/etcd/kv/./b", "/api/etcd/kv/a/../b", "/api/etcd/kv/a/..", "/api/etcd/kv/..", "/api/etcd/kv/.", "/../api/etcd/kv/b",
		"/api/etcd/services/../kv/b", "/api/etcd/kv/x/../../kv/b", "/api/etcd/kv/a%2Fb", "/api/etcd/kv/a%2fb", "/api/etcd/kv%2Fb",
		"/api%2Fetcd/kv/b", "/api/etcd/kv/%2e%2e/b", "/api/etcd/kv/a/%2E%2E/b", "/api/etcd/kv/.%2e/b", "/api/etcd/kv/%2e/b",
		"/api/etcd/kv/b%00", "/api/etcd/kv/%00b", "/api/etcd/kv/b%0d%0aX-Evil:%201", "/api/etcd/kv/b%0a", "/api/etcd/kv/b%7f",
		"/api/etcd/kv/%ff", "/api/etcd/kv/%c0%af", "/api/etcd/kv/a%5cb", `/api/etcd/kv/a\b`, `/api/etcd/kv/..\b`, "/api/etcd/kv/%zz", "/api/etcd/kv/%",
		"/api/etcd/kv/cas//b", "/api/etcd/kv/cas/a%2Fb", "/api/etcd/kv/prefix//a", "/api/etcd/kv/prefix/a//", "/api/etcd/kv/prefix/..", "/api/etcd/kv/",
		"http:b", "b", "", "*", "/api/etcd/health/", "/api/etcd/health//cluster", "/metrics/", "//metrics", "//",
	} {
		for _, method := range []string{"GET", "PUT", "DELETE", "POST"} {
			if path == "*" && method == "GET" {
				continue // is not even a request of HTTP
			}
			r := g.raw(method + " " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 16\r\nConnection: close\r\n\r\n{\"value\": \"bad\"}")
			assert.Equal(t, 400, r.status, method+" "+path)
			assert.Empty(t, r.header.Get("Location"), path)
			if r.Code == "bad_path" {
				assert.Equal(t, strings.HasPrefix(path, "/api/etcd/kv/"), strings.Contains(r.Error, "?key="), "%s: %s", path, r.Error)
			}
		}
	}
	assert.Equal(t, before, g.everything())
	g.serves()
}

func TestGateway_ChecksPathOfAbsoluteURL(t *testing.T) {
	t.Parallel()
	g := start(t)
	require.Equal(t, 200, g.do("PUT", kvPath+"b", `{"value": "1"}`).status)
	assert.Equal(t, 200, g.raw("GET http://localhost/api/etcd/kv/b HTTP/1.1\r\nHost: localhost\r\n\r\n").status)
	assert.Equal(t, 400, g.raw("GET http://localhost//api/etcd/kv/b HTTP/1.1\r\nHost: localhost\r\n\r\n").status)
	assert.Equal(t, 403, g.raw("GET http://evil.example/api/etcd/kv/b HTTP/1.1\r\nHost: localhost\r\n\r\n").status)
}

func TestGateway_UnknownPathIsNotFound(t *testing.T) {
	t.Parallel()
	g := start(t)
	for _, path := range []string{
		"/", "/api", "/api/etcd", "/api/etcd/KV/a", "/api/etcd/services/a", "/api/etcd/services/a/instances/b/c", "/api/etcd/health/x",
		"/metrics/x", "/debug/pprof", "/v3/kv/range", "/favicon.ico", "/api/etcd/kvx",
	} {
		r := g.do("GET", path, "")
		assert.Equal(t, 404, r.status, path)
		assert.Equal(t, "no_route", r.Code, path)
	}
}

func TestGateway_RefusesOtherMethods(t *testing.T) {
	t.Parallel()
	g := start(t)
	for path, allowed := range map[string]string{
		kvPath + "a": "DELETE, GET, HEAD, PUT", "/api/etcd/kv": "DELETE, GET, HEAD, PUT", kvPath + "cas/a": "POST", kvPath + "prefix/a": "GET, HEAD",
		"/api/etcd/services": "GET, HEAD", orders: "GET, HEAD", orders + "/a": "DELETE, POST", "/api/etcd/health": "GET, HEAD",
		"/api/etcd/health/cluster": "GET, HEAD", "/metrics": "GET, HEAD", "/api/etcd/info": "GET, HEAD",
	} {
		for _, method := range []string{"GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get"} {
			if strings.Contains(allowed, method) {
				continue
			}
			r := g.do(method, path, "")
			assert.Equal(t, 405, r.status, method+" "+path)
			assert.Equal(t, allowed, r.header.Get("Allow"))
		}
	}
	assert.Equal(t, 400, g.raw("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n").status)
	assert.Equal(t, 400, g.raw("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n").status)
	assert.Empty(t, g.everything())
}

func TestGateway_RefusesInvalidBodies(t *testing.T) {
	t.Parallel()
	g := start(t)
	for name, body := range map[string]string{
		"nothing": ``, "a space": ` `, "no JSON": `value`, "half of it": `{"value": "1"`, "half of a string": `{"value": "1`, "an array": `[]`,
		"a string": `"1"`, "a number": `1`, "null": `null`, "no value": `{}`, "a value of null": `{"value": null}`, "a value that is a number": `{"value": 1}`,
		"a value that is an object": `{"value": {}}`, "an unknown field": `{"value": "1", "ttl": 5}`, "a field twice": `{"value": "1", "value": "2"}`, "a field twice in capitals": `{"value": "1", "VALUE": "2"}`, "other capitals": `{"Value": "1"}`,
		"something behind it": `{"value": "1"} {"value": "2"}`, "garbage behind it": `{"value": "1"}x`, "a comma behind it": `{"value": "1"},`,
		"a TTL that is text": `{"value": "1", "ttlSeconds": "5"}`, "a TTL with a fraction": `{"value": "1", "ttlSeconds": 1.5}`,
		"a TTL that is too large": `{"value": "1", "ttlSeconds": 1e30}`, "an unknown encoding": `{"value": "1", "encoding": "hex"}`,
		"what is not base64": `{"value": "1", "encoding": "base64"}`, "base64 with a line break": `{"value": "AA\nAA", "encoding": "base64"}`,
		"what is not UTF-8": "{\"value\": \"\xff\"}", "half of a character": `{"value": "\ud800"}`, "the other half": `{"value": "\udc00"}`,
		"two first halves": `{"value": "\ud800\ud800"}`, "a control character": "{\"value\": \"\x01\"}", "a byte order mark": "\ufeff{\"value\": \"1\"}",
		"deep nesting":         `{"value": ` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`,
		"nesting without end":  strings.Repeat(`{"value":`, 100_000),
		"a comment":            `{"value": "1" /* one */}`,
		"a number of the name": `{1: "1"}`,
	} {
		r := g.do("PUT", kvPath+"a", body)
		assert.Equal(t, 400, r.status, name)
		assert.Equal(t, "bad_body", r.Code, name)
		assert.NotContains(t, r.Error, "main.", name)
	}
	long := strings.Repeat("x", 1<<20)
	assert.Less(t, len(g.do("PUT", kvPath+"a", `{"`+long+`": "1"}`).body), 500, "what was sent is not sent back")
	assert.Less(t, len(g.do("GET", kvPath+"a?"+long[:10_000], "").body), 500)
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json-patch+json", "application/xml", "json", ";"} {
		assert.Equal(t, 415, g.do("PUT", kvPath+"a", `{"value": "1"}`, "Content-Type", kind).status, kind)
	}
	assert.Equal(t, 415, g.do("PUT", kvPath+"a", `{"value": "1"}`, "Content-Encoding", "gzip").status)
	assert.Empty(t, g.everything())
	assert.Equal(t, 200, g.do("PUT", kvPath+"a", ` {"value": "1"} `, "Content-Type", "application/json; charset=utf-8").status)
	g.serves()
}

func TestGateway_RefusesLargeBodies(t *testing.T) {
	t.Parallel()
	g := start(t)
	largest := 3<<19 - 100 - len(g.svc.client.KV().Dir())
	assert.Equal(t, 200, g.do("PUT", kvPath+"a", `{"value": "`+strings.Repeat("v", largest)+`"}`).status)
	assert.Equal(t, 413, g.do("PUT", kvPath+"a", `{"value": "`+strings.Repeat("v", 3<<19)+`"}`).status, "more than etcd takes")
	assert.Equal(t, 413, g.do("PUT", kvPath+"a", `{"value": "`+strings.Repeat("v", 2<<20)+`"}`).status, "more than the gateway takes")
	assert.Equal(t, 413, g.do("POST", kvPath+"cas/a", `{"expectedValue": "`+strings.Repeat("v", 2<<20)+`", "newValue": ""}`).status)
	r, err := g.try("PUT", kvPath+"a", io.LimitReader(endless{}, 1<<30))
	if err == nil { // otherwise the connection was closed while it was being sent
		assert.Equal(t, 413, r.status)
	}
	g.serves()
}

// endless is spaces.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	copy(b, bytes.Repeat([]byte{' '}, len(b)))
	return len(b), nil
}

func TestGateway_RefusesLargeHeaders(t *testing.T) {
	t.Parallel()
	g := start(t)
	many := &strings.Builder{}
	for i := range 3000 {
		fmt.Fprintf(many, "X-%d: value\r\n", i)
	}
	for name, header := range map[string]string{"one": "X-Long: " + strings.Repeat("x", 64<<10) + "\r\n", "many": many.String()} {
		assert.Equal(t, 431, g.raw("GET "+kvPath+"a HTTP/1.1\r\nHost: localhost\r\n"+header+"\r\n").status, name)
	}
	assert.Equal(t, 431, g.raw("GET "+kvPath+strings.Repeat("x", 64<<10)+" HTTP/1.1\r\nHost: localhost\r\n\r\n").status)
	g.serves()
}

func TestGateway_RefusesInvalidHTTP(t *testing.T) {
	t.Parallel()
	g := start(t)
	head := "PUT " + kvPath + "a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	for name, text := range map[string]string{
		"no HTTP": "hello\r\n\r\n", "two lengths": head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", "a negative length": head + "Content-Length: -1\r\n\r\n",
		"a chunk that is none": head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", "no host": "GET " + kvPath + "a HTTP/1.1\r\n\r\n",
		"a header with a space": "GET " + kvPath + "a HTTP/1.1\r\nHost : localhost\r\n\r\n",
	} {
		assert.Equal(t, 400, g.raw(text).status, name)
	}
	g.serves()
}

func TestGateway_DropsSlowClients(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) {
		s.Gateway.Limits.HeaderTimeout = etcdkit.Duration(time.Second)
		s.Gateway.Limits.ReadTimeout = etcdkit.Duration(2 * time.Second)
	})
	slow := g.raw("PUT " + kvPath + "a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"value\"")
	assert.Equal(t, 408, slow.status)
	assert.Equal(t, "slow_body", slow.Code)

	conn, err := net.Dial("tcp", g.addr)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("GET " + kvPath + "a HTTP/1.1\r\nHost: loc"))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	_, err = io.ReadAll(conn)
	require.NoError(t, err, "the gateway has closed it")

	half, err := net.Dial("tcp", g.addr) // and one that goes away in the middle
	require.NoError(t, err)
	_, err = half.Write([]byte("PUT " + kvPath + "a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"value\""))
	require.NoError(t, err)
	require.NoError(t, half.Close())
	g.serves()
	assert.Len(t, g.everything(), 1)
}

func TestGateway_ServesOthersWhileBodiesArriveSlowly(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) { s.Gateway.Limits.Concurrent = 1 })
	slow, err := net.Dial("tcp", g.addr)
	require.NoError(t, err)
	defer slow.Close()
	_, err = slow.Write([]byte("PUT " + kvPath + "a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"))
	require.NoError(t, err)
	eventually(t, func() bool { return len(g.svc.receiving) == 1 }, "the body is on its way")
	assert.Equal(t, 404, g.do("GET", kvPath+"a", "").status, "reads have slots of their own")
	assert.Equal(t, 429, g.do("PUT", kvPath+"a", `{"value": "1"}`).status)
	require.NoError(t, slow.Close())
	eventually(t, func() bool { return g.do("PUT", kvPath+"a", `{"value": "1"}`).status == 200 }, "it is over when its client has gone")
}

func TestGateway_LimitsConnections(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) { s.Gateway.Limits.Connections = 1 })
	g.http.CloseIdleConnections()
	first, err := net.Dial("tcp", g.addr)
	require.NoError(t, err)
	defer first.Close()
	get := "GET /api/etcd/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
	_, err = first.Write([]byte(get))
	require.NoError(t, err)
	_, err = io.ReadFull(first, make([]byte, 12)) // it is served, and stays open
	require.NoError(t, err)
	second, err := net.Dial("tcp", g.addr) // the system takes it, the gateway does not yet
	require.NoError(t, err)
	defer second.Close()
	_, err = second.Write([]byte(get))
	require.NoError(t, err)
	require.NoError(t, second.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	_, err = second.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, first.Close())
	require.NoError(t, second.SetReadDeadline(time.Now().Add(20*time.Second)))
	_, err = io.ReadFull(second, make([]byte, 12))
	require.NoError(t, err)
}

func TestGateway_RefusesTooManyRequestsAtOnce(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) { s.Gateway.Limits.Concurrent = 1 })
	g.svc.slots <- struct{}{}
	r := g.do("GET", kvPath+"a", "")
	assert.Equal(t, 429, r.status)
	assert.Equal(t, "1", r.header.Get("Retry-After"))
	assert.Equal(t, 200, g.do("GET", "/api/etcd/health", "").status, "probes are answered")
	<-g.svc.slots
	assert.Equal(t, 404, g.do("GET", kvPath+"a", "").status)
}

func TestGateway_UnreadAnswerKeepsItsSlot(t *testing.T) {
	t.Parallel()
	g := start(t)
	for i := range 8 {
		require.Equal(t, 200, g.do("PUT", kvPath+fmt.Sprint("big/", i), `{"value": "`+strings.Repeat("v", 1<<20)+`"}`).status)
	}
	conn, err := net.Dial("tcp", g.addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(4096))
	_, err = conn.Write([]byte("GET " + kvPath + "prefix/big?metadata=true HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	require.NoError(t, err)
	_, err = io.ReadFull(conn, make([]byte, 4096)) // the answer is on its way
	require.NoError(t, err)
	assert.Len(t, g.svc.slots, 1)
	assert.Greater(t, g.svc.listed.Load(), int64(7<<20))
	require.NoError(t, conn.Close())
	eventually(t, func() bool { return len(g.svc.slots) == 0 && g.svc.listed.Load() == 0 }, "who has gone holds nothing")
}

func TestGateway_SurvivesPanic(t *testing.T) {
	t.Parallel()
	g := start(t)
	for i := range g.svc.routes {
		if r := &g.svc.routes[i]; r.pattern == "/api/etcd/services" {
			r.methods = map[string]endpoint{http.MethodGet: {serve: func(*request) (response, error) { panic("out of order") }}}
		}
	}
	r := g.do("GET", "/api/etcd/services", "")
	assert.Equal(t, 500, r.status)
	assert.NotContains(t, string(r.body), "out of order")
	assert.Contains(t, g.log.String(), "out of order")
	eventually(t, func() bool { return len(g.svc.slots) == 0 }, "its slot is free again")
	g.serves()
}

func TestGateway_ConcurrentClientsLoseNothing(t *testing.T) {
	t.Parallel()
	const clients, rounds = 8, 8
	g := start(t)
	require.Equal(t, 200, g.do("PUT", kvPath+"counter", `{"value": "0"}`).status)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range rounds {
				own := fmt.Sprintf("%sown/%d", kvPath, c)
				assert.Equal(t, 200, g.do("PUT", own, fmt.Sprintf(`{"value": "%d"}`, i)).status)
				assert.Equal(t, strconv.Itoa(i), g.do("GET", own+"?cached=true", "").text(t))
				g.raw("GET //" + strconv.Itoa(i) + " HTTP/1.1\r\nHost: localhost\r\n\r\n")
				for { // add one
					now := g.do("GET", kvPath+"counter", "")
					n, err := strconv.Atoi(now.text(t))
					if !assert.NoError(t, err) {
						return
					}
					r := g.do("PUT", kvPath+"counter", fmt.Sprintf(`{"value": "%d"}`, n+1), "If-Match", now.header.Get("ETag"))
					if r.status == 200 {
						break
					}
					if !assert.Equal(t, 412, r.status) {
						return
					}
				}
			}
		})
	}
	wg.Wait()
	assert.Equal(t, strconv.Itoa(clients*rounds), g.do("GET", kvPath+"counter", "").text(t))
	assert.InDelta(t, clients, g.do("GET", kvPath+"prefix/own?metadata=true", "").field(t, "total"), 0)
}
