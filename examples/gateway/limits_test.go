package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/settings"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestGateway_UsesLimitsOfTheSettings(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) {
		l := &s.Gateway.Limits
		l.BodyBytes, l.HeaderBytes, l.PageEntries = 100, 2000, 2
		l.IdleTimeout = etcdkit.Duration(100 * time.Millisecond)
	})
	g.http.Transport = &http.Transport{DisableKeepAlives: true} // the gateway closes them early
	assert.Equal(t, 200, g.do("PUT", kvPath+"a/1", `{"value": "`+strings.Repeat("v", 80)+`"}`).status)
	assert.Equal(t, 413, g.do("PUT", kvPath+"a/1", `{"value": "`+strings.Repeat("v", 101)+`"}`).status)

	assert.Equal(t, 404, g.do("GET", kvPath+"a", "", "X-Long", strings.Repeat("x", 1000)).status)
	assert.Equal(t, 431, g.do("GET", kvPath+"a", "", "X-Long", strings.Repeat("x", 12_000)).status, "the default would take it")

	for _, key := range []string{"a/2", "a/3"} {
		require.Equal(t, 200, g.do("PUT", kvPath+key, `{"value": "v"}`).status)
	}
	assert.Len(t, g.do("GET", kvPath+"prefix/a?metadata=true", "").field(t, "entries"), 2)
	assert.Equal(t, 400, g.do("GET", kvPath+"prefix/a?metadata=true&limit=3", "").status)
	assert.Equal(t, 413, g.do("GET", kvPath+"prefix/a", "").status, "a map has no pages")

	conn := g.conn("GET " + kvPath + "a HTTP/1.1\r\nHost: localhost\r\n\r\n")
	defer conn.Close()
	_, err := io.ReadAll(conn)
	require.NoError(t, err, "the gateway closes a connection that idles")
}

func TestGateway_UsesTimesOfTheSettings(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) {
		s.Cache.TTL = etcdkit.Duration(200 * time.Millisecond)
		s.Gateway.RegistrationTTL = etcdkit.Duration(47 * time.Second)
	})
	require.Equal(t, 201, g.do("POST", orders+"/a", instanceOK).status)
	e, err := g.svc.client.KV().Get(t.Context(), "services/orders/instances/a")
	require.NoError(t, err)
	lease, err := etcdtest.Client(t).TimeToLive(t.Context(), e.Lease)
	require.NoError(t, err)
	assert.Equal(t, int64(47), lease.GrantedTTL)

	eventually(t, func() bool {
		g.do("GET", kvPath+"k?cached=true", "")
		return g.svc.cached.Stats().Fills >= 3
	}, "what is in memory outlives its time, and is read again")
}
