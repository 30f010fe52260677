package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/settings"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// behind starts a gateway with a network between it and etcd.
func behind(t *testing.T, edit ...func(s *settings.Settings)) (*rig, *etcdtest.Proxy) {
	t.Helper()
	proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	all := append([]func(s *settings.Settings){func(s *settings.Settings) {
		s.Etcd.Endpoints = proxy.Endpoints()
		s.Etcd.ReadTimeout = etcdkit.Duration(time.Second)
		s.Etcd.WriteTimeout = etcdkit.Duration(time.Second)
	}}, edit...)
	return start(t, all...), proxy
}

// soon asserts that an answer came while somebody would still wait for it.
func soon(t *testing.T, f func() *reply) *reply {
	t.Helper()
	began := time.Now()
	r := f()
	assert.Less(t, time.Since(began), 15*time.Second)
	return r
}

func TestGateway_AnswersInTimeWhileEtcdIsAway(t *testing.T) {
	t.Parallel()
	g, proxy := behind(t)
	require.Equal(t, 200, g.do("PUT", kvPath+"k", `{"value": "v"}`).status)
	require.Equal(t, 200, g.do("GET", kvPath+"k?cached=true", "").status)
	require.Equal(t, 201, g.do("POST", orders+"/a", instanceOK).status)
	eventually(t, func() bool { return len(g.instances("orders")) == 1 }, "registered")

	proxy.Refuse()
	proxy.Cut()
	for _, one := range []struct{ method, target, body string }{
		{"GET", kvPath + "k", ""},
		{"GET", kvPath + "prefix", ""},
		{"PUT", kvPath + "k", `{"value": "w"}`},
		{"PUT", kvPath + "k", `{"value": "w", "ttlSeconds": 60}`},
		{"DELETE", kvPath + "k", ""},
		{"POST", kvPath + "cas/k", `{"expectedValue": "v", "newValue": "w"}`},
		{"GET", "/api/etcd/services", ""},
		{"GET", "/api/etcd/health/cluster", ""},
	} {
		r := soon(t, func() *reply { return g.do(one.method, one.target, one.body) })
		assert.Equal(t, 503, r.status, one)
		assert.Equal(t, "unavailable", r.Code, one)
		assert.Equal(t, "1", r.header.Get("Retry-After"))
		assert.NotContains(t, string(r.body), "127.0.0.1", "no address is told")
	}
	r := soon(t, func() *reply { return g.do("GET", "/api/etcd/health", "") })
	assert.Equal(t, 503, r.status)
	var health healthBody
	require.NoError(t, json.Unmarshal(r.body, &health))
	assert.Equal(t, "DOWN", health.Status)
	assert.Equal(t, "etcd unavailable", health.Message)
	assert.Len(t, g.instances("orders"), 1, "what is watched does not go blind")
	assert.Equal(t, 200, g.do("GET", "/metrics", "").status)

	proxy.Heal()
	proxy.Accept()
	eventually(t, func() bool { return g.do("GET", "/api/etcd/health", "").status == 200 }, "healthy again")
	assert.Equal(t, "v", g.do("GET", kvPath+"k", "").text(t), "nothing was changed")
	g.serves()
}

func TestGateway_CachedReadsWithinBoundWhileEtcdIsAway(t *testing.T) {
	t.Parallel()
	g, proxy := behind(t, func(s *settings.Settings) { s.Cache.MaxStaleness = etcdkit.Duration(3 * time.Second) })
	require.Equal(t, 200, g.do("PUT", kvPath+"k", `{"value": "v"}`).status)
	require.Equal(t, 200, g.do("GET", kvPath+"k?cached=true", "").status)
	proxy.Refuse()
	proxy.Cut()
	began := time.Now()
	r := g.do("GET", kvPath+"k?cached=true", "")
	if took := time.Since(began); took < time.Second { // otherwise this machine was too slow to tell
		require.Equal(t, 200, r.status)
		assert.Equal(t, "v", r.text(t))
	}
	assert.Equal(t, 503, g.do("GET", kvPath+"k", "").status)
	eventually(t, func() bool { return g.do("GET", kvPath+"k?cached=true", "").status == 503 }, "beyond the bound")
	assert.GreaterOrEqual(t, g.svc.cached.Age(), 2*time.Second)
	proxy.Accept()
	eventually(t, func() bool { return g.do("GET", kvPath+"k?cached=true", "").status == 200 }, "well again")
}

func TestGateway_LostAnswerOfWriteIsUnknown(t *testing.T) {
	t.Parallel()
	g, proxy := behind(t)
	require.Equal(t, 200, g.do("PUT", kvPath+"k", `{"value": "v"}`).status)
	proxy.Blackhole(false, true)
	r := soon(t, func() *reply { return g.do("PUT", kvPath+"k", `{"value": "w"}`) })
	assert.Equal(t, 504, r.status)
	assert.Equal(t, "unknown_outcome", r.Code)
	assert.Empty(t, r.header.Get("Retry-After"), "repeating it is not safe")
	assert.Equal(t, 504, soon(t, func() *reply { return g.do("DELETE", kvPath+"k2", "") }).status)
	assert.Equal(t, 504, soon(t, func() *reply {
		return g.do("POST", kvPath+"cas/k", `{"expectedValue": "v", "newValue": "x"}`)
	}).status)
	proxy.Cut() // what was swallowed has broken the connection
	proxy.Heal()
	eventually(t, func() bool { return g.do("GET", kvPath+"k", "").status == 200 }, "well again")
	assert.Equal(t, "w", g.do("GET", kvPath+"k", "").text(t), "it was carried out")
}

func TestGateway_PendingChangeOfInstanceIsUnknown(t *testing.T) {
	t.Parallel()
	g, proxy := behind(t)
	require.Equal(t, 201, g.do("POST", orders+"/stays", instanceOK).status)
	require.Equal(t, 201, g.do("POST", orders+"/goes", instanceOK).status)
	proxy.Refuse()
	proxy.Cut()
	r := soon(t, func() *reply { return g.do("POST", orders+"/stays", `{"host": "10.0.0.8", "port": 1}`) })
	assert.Equal(t, 504, r.status, "it is changed as soon as that is possible")
	assert.Equal(t, "unknown_outcome", r.Code)
	r = soon(t, func() *reply { return g.do("DELETE", orders+"/goes", "") })
	assert.Equal(t, 504, r.status, "it goes when its lease ends")
	assert.Equal(t, 400, g.do("POST", orders+"/stays", `{"port": 1}`).status)
	proxy.Heal()
	proxy.Accept()
	eventually(t, func() bool {
		e, err := g.svc.client.KV().Get(t.Context(), "services/orders/instances/stays")
		return err == nil && strings.Contains(string(e.Value), "10.0.0.8")
	}, "it is changed")
	assert.Equal(t, 1, g.svc.registrations.count())
}

func TestGateway_EndsSlowRequests(t *testing.T) {
	t.Parallel()
	g, proxy := behind(t, func(s *settings.Settings) {
		s.Etcd.ReadTimeout = etcdkit.Duration(time.Minute)
		s.Gateway.Limits.Request = etcdkit.Duration(time.Second)
	})
	require.Equal(t, 404, g.do("GET", kvPath+"k", "").status)
	proxy.Blackhole(false, true)
	r := soon(t, func() *reply { return g.do("GET", kvPath+"k", "") })
	assert.Equal(t, 503, r.status)
	assert.Equal(t, "too_slow", r.Code)
	proxy.Cut()
	proxy.Heal()
}

func TestGateway_ReadTimeoutDoesNotBoundTheWork(t *testing.T) {
	t.Parallel()
	g, proxy := behind(t, func(s *settings.Settings) {
		s.Etcd.ReadTimeout = etcdkit.Duration(time.Minute)
		s.Etcd.WriteTimeout = etcdkit.Duration(time.Minute)
		s.Gateway.Limits.ReadTimeout = etcdkit.Duration(500 * time.Millisecond)
		s.Gateway.Limits.Request = etcdkit.Duration(2 * time.Second)
	})
	require.Equal(t, 404, g.do("GET", kvPath+"k", "").status)
	proxy.Blackhole(false, true)
	for _, one := range []struct {
		method, body, code string
	}{{"GET", "", "too_slow"}, {"PUT", `{"value": "v"}`, "unknown_outcome"}} {
		began := time.Now()
		r := soon(t, func() *reply { return g.do(one.method, kvPath+"k", one.body) })
		assert.Equal(t, one.code, r.Code, one.method)
		assert.GreaterOrEqual(t, time.Since(began), 2*time.Second, one.method)
	}
	proxy.Cut()
	proxy.Heal()
}

func TestGateway_HealthOfHealthyCluster(t *testing.T) {
	t.Parallel()
	g := start(t)
	before := g.everything()
	r := g.do("GET", "/api/etcd/health", "")
	require.Equal(t, 200, r.status)
	var health healthBody
	require.NoError(t, json.Unmarshal(r.body, &health))
	assert.Equal(t, "UP", health.Status)
	assert.Equal(t, 1, *health.ActiveWatchers, "that of the cache")
	assert.WithinDuration(t, time.Now(), health.Timestamp, time.Minute)
	g.instances("a")
	require.NoError(t, json.Unmarshal(g.do("GET", "/api/etcd/health", "").body, &health))
	assert.Equal(t, 2, *health.ActiveWatchers)
	assert.Equal(t, before, g.everything(), "it writes nothing")

	var members []memberBody
	require.NoError(t, json.Unmarshal(g.do("GET", "/api/etcd/health/cluster", "").Data, &members))
	require.Len(t, members, 1)
	m := members[0]
	assert.True(t, m.Leader && m.Reachable && !m.Learner && !m.Evicted)
	assert.Regexp(t, `^[0-9a-f]+$`, m.ID)
	assert.NotEmpty(t, m.Version)
	assert.Positive(t, m.DBSize)
}

func TestGateway_HealthDetailsCanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	g, proxy := behind(t, func(s *settings.Settings) { s.Gateway.HealthDetails = false })
	assert.JSONEq(t, `{"status": "UP"}`, string(g.do("GET", "/api/etcd/health", "").body))
	proxy.Refuse()
	proxy.Cut()
	eventually(t, func() bool {
		r := g.do("GET", "/api/etcd/health", "")
		return r.status == 503 && string(r.body) == `{"status":"DOWN"}`+"\n"
	}, "it is noticed")
}

func TestGateway_InfoShowsSettingsWithoutSecrets(t *testing.T) {
	t.Parallel()
	g := start(t)
	var info infoBody
	require.NoError(t, json.Unmarshal(g.do("GET", "/api/etcd/info", "").Data, &info))
	assert.Equal(t, g.svc.set.Etcd.Namespace, info.Namespace)
	assert.Equal(t, etcdtest.Endpoints(), info.Endpoints)
	assert.NotEmpty(t, info.Version)

	// Whoever writes credentials into an endpoint does not get a gateway that shows them.
	withPassword := strings.Replace(etcdtest.Endpoints()[0], "http://", "http://user:hunter2@", 1)
	client, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: []string{withPassword}})
	require.ErrorIs(t, err, etcdkit.ErrInvalid)
	assert.Nil(t, client)
	assert.NotContains(t, err.Error(), "hunter2")
}
