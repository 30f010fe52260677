package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/examples/settings"
)

const secret = "a-token-that-is-long-enough"

func tokenFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func withToken(t *testing.T) func(s *settings.Settings) {
	t.Helper()
	path := tokenFile(t, secret+"\n")
	return func(s *settings.Settings) { s.Gateway.TokenFile = path }
}

func TestGateway_WithTokenRefusesRequestsWithoutIt(t *testing.T) {
	t.Parallel()
	g := start(t, withToken(t))
	for _, said := range []string{"", "Bearer", "Bearer ", "Bearer x", "Bearer " + secret + "x", "Bearer " + secret[1:], "Basic " + secret, secret, "Bearer  " + secret} {
		for _, target := range []string{kvPath + "a", "/api/etcd/services", "/metrics", "/openapi.yaml", "/api/etcd/health/cluster", "/nothing", "/"} {
			r := g.do("GET", target, "", "Authorization", said)
			assert.Equal(t, 401, r.status, said+target)
			assert.Equal(t, `Bearer realm="etcd"`, r.header.Get("WWW-Authenticate"))
			assert.Equal(t, "unauthorized", r.Code)
		}
		assert.Equal(t, 401, g.do("PUT", kvPath+"a", `{"value": "1"}`, "Authorization", said).status)
	}
	assert.Equal(t, 200, g.do("GET", "/api/etcd/health", "").status, "probes have no token")
	assert.Equal(t, 401, g.raw("GET "+kvPath+"a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+secret+"\r\nAuthorization: Bearer x\r\n\r\n").status)

	assert.Equal(t, 404, g.do("GET", kvPath+"a", "", "Authorization", "bearer "+secret).status)
	g.token = secret
	g.serves()
	assert.Equal(t, 404, g.do("GET", "/nothing", "").status)
	assert.Equal(t, 200, g.raw("GET "+kvPath+"still/there HTTP/1.1\r\nHost: gateway.example.com\r\nAuthorization: Bearer "+secret+"\r\n\r\n").status)
}

func TestReadToken_RefusesWeakTokens(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "short", strings.Repeat(" ", 40) + "fifteen-bytes.."} {
		_, err := readToken(tokenFile(t, text))
		require.ErrorContains(t, err, "16")
	}
	for _, text := range []string{secret + "\n" + secret, "# the token\n" + secret, secret + " " + secret, secret + "ä", secret + "\x00", "\ufeff" + secret, secret + "\xff"} {
		_, err := readToken(tokenFile(t, text))
		require.ErrorContains(t, err, "single word", text)
		assert.NotContains(t, err.Error(), secret)
	}
	_, err := readToken(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestGateway_WithoutTokenListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	g := start(t)
	everywhere, err := net.Listen("tcp", "0.0.0.0:0")
	require.NoError(t, err)
	require.ErrorContains(t, g.svc.serveOn(t.Context(), everywhere), "not a loopback address")
	_, err = everywhere.Accept()
	require.ErrorIs(t, err, net.ErrClosed, "nobody was let in")
}

func TestGateway_WithoutTokenAnswersLoopbackNamesOnly(t *testing.T) {
	t.Parallel()
	g := start(t)
	for host, want := range map[string]int{
		"localhost": 404, "localhost:8080": 404, "LocalHost:8080": 404, "127.0.0.1": 404, "127.0.0.1:80": 404, "[::1]:8080": 404, "[::1]": 404,
		"evil.example": 403, "evil.example:8080": 403, "localhost.evil.example": 403, "10.0.0.1": 403, "": 403,
	} {
		assert.Equal(t, want, g.raw("GET "+kvPath+"a HTTP/1.1\r\nHost: "+host+"\r\n\r\n").status, host)
	}
	r := g.do("OPTIONS", kvPath+"a", "", "Origin", "http://evil.example", "Access-Control-Request-Method", "PUT")
	assert.Equal(t, 405, r.status)
	assert.Empty(t, r.header.Get("Access-Control-Allow-Origin"))
}

func TestLog_HasNoValuesTokensOrQueries(t *testing.T) {
	t.Parallel()
	g := start(t, withToken(t))
	g.token = secret
	require.Equal(t, 200, g.do("PUT", kvPath+"some/key", `{"value": "a-value-to-hide"}`).status)
	require.Equal(t, 200, g.do("POST", kvPath+"cas/some/key", `{"expectedValue": "a-value-to-hide", "newValue": "a-value-too"}`).status)
	require.Equal(t, 400, g.do("GET", kvPath+"some/key?access_token=a-query-to-hide", "").status)
	require.Equal(t, 401, g.do("GET", kvPath+"some/key", "", "Authorization", "Bearer a-wrong-token-to-hide").status)
	require.Equal(t, 400, g.do("PUT", kvPath+"some/key", `{"value": a-value-to-hide`).status)
	require.Equal(t, 404, g.do("GET", "/"+strings.Repeat("x", 10_000), "").status)
	require.Equal(t, 201, g.do("POST", orders+"/a", `{"host": "a", "port": 1, "metadata": {"k": "metadata-to-hide"}}`).status)
	text := g.log.String()
	for _, hidden := range []string{secret, "to-hide", "a-value-too"} {
		assert.NotContains(t, text, hidden)
	}
	assert.Contains(t, text, `"method":"PUT","path":"/api/etcd/kv/some/key","route":"/api/etcd/kv/{key}","status":200`)
	for line := range strings.Lines(text) {
		assert.Less(t, len(line), 1000)
	}
}
