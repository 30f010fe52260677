package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/examples/settings"
)

const (
	orders     = "/api/etcd/services/orders/instances"
	instanceOK = `{"host": "10.0.0.7", "port": 8080, "metadata": {"owner": "payments"}}`
)

func (g *rig) instances(service string) (out []instanceBody) {
	g.t.Helper()
	r := g.do("GET", "/api/etcd/services/"+service+"/instances", "")
	require.Equal(g.t, 200, r.status)
	require.NotEmpty(g.t, r.header.Get("Age"))
	require.NoError(g.t, json.Unmarshal(r.Data, &out))
	for n := range out {
		assert.Equal(g.t, service, out[n].Service)
		assert.Zero(g.t, out[n].TTLSeconds)
	}
	return out
}

// eventually waits for something that a watch will tell.
func eventually(t *testing.T, ok func() bool, what string) {
	t.Helper()
	require.Eventually(t, ok, 20*time.Second, 5*time.Millisecond, what)
}

func TestGateway_RegistersChangesAndRemovesInstance(t *testing.T) {
	t.Parallel()
	g := start(t)
	assert.Empty(t, g.instances("orders"))
	created := g.do("POST", orders+"/a", instanceOK)
	require.Equal(t, 201, created.status)
	assert.InDelta(t, 30, created.field(t, "ttlSeconds"), 0)
	eventually(t, func() bool { return len(g.instances("orders")) == 1 }, "registered")
	got := g.instances("orders")[0]
	assert.Equal(t, "10.0.0.7", got.Host)
	assert.Equal(t, map[string]string{"owner": "payments"}, got.Metadata)
	assert.Equal(t, "up", got.Status)
	assert.False(t, got.Since.IsZero())
	assert.JSONEq(t, `["orders"]`, string(g.do("GET", "/api/etcd/services", "").Data))

	require.Equal(t, 200, g.do("POST", orders+"/a", `{"host": "10.0.0.8", "port": 8081, "version": "2", "tags": ["canary"]}`).status)
	eventually(t, func() bool { return g.instances("orders")[0].Version == "2" }, "changed")

	require.Equal(t, 200, g.do("DELETE", orders+"/a", "").status)
	eventually(t, func() bool { return len(g.instances("orders")) == 0 }, "taken back")
	assert.Equal(t, 404, g.do("DELETE", orders+"/a", "").status)
	assert.JSONEq(t, `[]`, string(g.do("GET", "/api/etcd/services", "").Data))
	assert.Equal(t, 201, g.do("POST", orders+"/a", instanceOK).status, "and again")
}

func TestGateway_RegistrationExpiresUnlessRenewed(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	g := start(t, func(s *settings.Settings) { s.Gateway.RegistrationTTL = etcdkit.Duration(ttl) })
	start := time.Now()
	require.Equal(t, 201, g.do("POST", orders+"/left", instanceOK).status)
	require.Equal(t, 201, g.do("POST", orders+"/renewed", instanceOK).status)
	store := g.svc.client.KV()
	first, err := store.Get(t.Context(), "services/orders/instances/renewed")
	require.NoError(t, err)
	there := func(id string) bool {
		ok, err := store.Exists(t.Context(), "services/orders/instances/"+id)
		require.NoError(t, err)
		return ok
	}
	renew := time.NewTicker(ttl / 8)
	defer renew.Stop()
	for there("left") {
		<-renew.C
		require.Equal(t, 200, g.do("POST", orders+"/renewed", instanceOK).status, "it is held all the time")
		require.Less(t, time.Since(start), 20*time.Second, "it does not expire")
	}
	assert.GreaterOrEqual(t, time.Since(start), ttl)
	now, err := store.Get(t.Context(), "services/orders/instances/renewed")
	require.NoError(t, err)
	assert.Equal(t, first.ModRevision, now.ModRevision, "renewing writes nothing")
	eventually(t, func() bool { return g.svc.registrations.count() == 1 }, "the place is free")
	assert.Equal(t, 404, g.do("DELETE", orders+"/left", "").status)
	assert.Equal(t, 201, g.do("POST", orders+"/left", instanceOK).status, "and again")
	eventually(t, func() bool { return !there("renewed") && !there("left") }, "nobody renews them")
	eventually(t, func() bool { return g.svc.registrations.count() == 0 }, "no place is taken")
	assert.Contains(t, g.log.String(), `"registration expired","service":"orders","instance":"left"`)
}

func TestGateway_RegistrationExpiresWhileEtcdIsAway(t *testing.T) {
	t.Parallel()
	g, proxy := behind(t, func(s *settings.Settings) {
		s.Gateway.RegistrationTTL = etcdkit.Duration(2 * time.Second)
	})
	require.Equal(t, 201, g.do("POST", orders+"/a", instanceOK).status)
	proxy.Refuse()
	proxy.Cut()
	eventually(t, func() bool { return g.svc.registrations.count() == 0 }, "given up")
	proxy.Heal()
	proxy.Accept()
	eventually(t, func() bool {
		ok, err := g.svc.client.KV().Exists(t.Context(), "services/orders/instances/a")
		return err == nil && !ok
	}, "it does not come back")
}

func TestGateway_RestoresRegistrations(t *testing.T) {
	t.Parallel()
	g := start(t)
	require.Equal(t, 201, g.do("POST", orders+"/a", instanceOK).status)
	store := g.svc.client.KV()
	e, err := store.Get(t.Context(), "services/orders/instances/a")
	require.NoError(t, err)
	_, err = store.Delete(t.Context(), e.Key)
	require.NoError(t, err)
	eventually(t, func() bool {
		now, err := store.Get(t.Context(), e.Key)
		return err == nil && now.CreateRevision > e.CreateRevision
	}, "restored")
}

func TestGateway_LeavesInstancesOfOthersAlone(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) { s.Gateway.RegistrationTTL = etcdkit.Duration(2 * time.Second) })
	client, err := etcdkit.Open(t.Context(), g.svc.set.Etcd)
	require.NoError(t, err)
	defer client.Close()
	other, err := discovery.New(client, discovery.WithTTL(2*time.Second))
	require.NoError(t, err)
	defer other.Close()
	reg, err := other.Register(t.Context(), discovery.Instance{Service: "orders", ID: "a", Host: "10.0.0.9", Port: 1})
	require.NoError(t, err)

	taken := g.do("POST", orders+"/a", instanceOK)
	assert.Equal(t, 409, taken.status)
	assert.Equal(t, "taken", taken.Code)
	assert.Equal(t, 409, g.do("DELETE", orders+"/a", "").status)
	assert.Equal(t, "10.0.0.9", g.instances("orders")[0].Host)
	assert.Equal(t, discovery.Registered, reg.State())
}

func TestGateway_ConcurrentRegistrationsOfOneInstance(t *testing.T) {
	t.Parallel()
	g := start(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 10 {
				assert.Contains(t, []int{200, 201, 409}, g.do("POST", orders+"/a", instanceOK).status)
				assert.Contains(t, []int{200, 404, 409}, g.do("DELETE", orders+"/a", "").status)
			}
		})
	}
	wg.Wait()
	assert.Zero(t, g.svc.registrations.count())
	assert.Equal(t, 404, g.do("DELETE", orders+"/a", "").status)
	assert.Equal(t, 201, g.do("POST", orders+"/a", instanceOK).status)

	i := discovery.Instance{Service: "orders", ID: "a", Host: "10.0.0.7", Port: 8080}
	reg, err := g.svc.registrations.renewOrReserve(instanceName{i.Service, i.ID})
	require.NoError(t, err)
	require.Equal(t, 200, g.do("DELETE", orders+"/a", "").status)
	require.ErrorIs(t, g.svc.registrations.change(t.Context(), reg, i), errPending, "it was taken back meanwhile")
}

func TestGateway_RefusesInvalidInstances(t *testing.T) {
	t.Parallel()
	g := start(t)
	for name, body := range map[string]string{
		"no host": `{"port": 1}`, "no port": `{"host": "a"}`, "a port that is none": `{"host": "a", "port": 65536}`,
		"a port in the host": `{"host": "a:1", "port": 1}`, "a negative weight": `{"host": "a", "port": 1, "weight": -1}`,
		"a port with a fraction": `{"host": "a", "port": 1.5}`, "metadata of numbers": `{"host": "a", "port": 1, "metadata": {"a": 1}}`,
		"a status": `{"host": "a", "port": 1, "status": "up"}`, "nothing": `{}`, "null": `null`,
	} {
		assert.Equal(t, 400, g.do("POST", orders+"/a", body).status, name)
	}
	long := strings.Repeat("x", 2000)
	assert.Equal(t, 413, g.do("POST", orders+"/a", `{"host": "a", "port": 1, "metadata": {"a": "`+long+`"}}`).status)
	assert.Equal(t, 413, g.do("POST", orders+"/"+long, instanceOK).status)
	assert.Equal(t, 413, g.do("GET", "/api/etcd/services/"+long+"/instances", "").status)
	for _, path := range []string{"/a%2Fb", "/a/b", "/", "//", "/.", "/%2e%2e", "/%00"} {
		assert.Contains(t, []int{400, 404}, g.do("POST", orders+path, instanceOK).status, path)
	}
	assert.JSONEq(t, `[]`, string(g.do("GET", "/api/etcd/services", "").Data))
	assert.Zero(t, g.svc.registrations.count())
}

func TestGateway_LimitsRegistrations(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) { s.Gateway.Limits.Registrations = 2 })
	for i := range 2 {
		require.Equal(t, 201, g.do("POST", fmt.Sprint(orders, "/", i), instanceOK).status)
	}
	assert.Equal(t, 429, g.do("POST", orders+"/2", instanceOK).status)
	assert.Equal(t, 200, g.do("POST", orders+"/1", instanceOK).status)
	require.Equal(t, 200, g.do("DELETE", orders+"/0", "").status)
	assert.Equal(t, 201, g.do("POST", orders+"/2", instanceOK).status)
}

// watched is the services that have a view.
func (g *rig) watched() []string {
	v := g.svc.views
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Collect(maps.Keys(v.open))
}

func TestGateway_LimitsWatchedServices(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) { s.Watch.MaxServices = 2 })
	for _, service := range []string{"a", "b", "a", "c", "d", "a"} {
		assert.Empty(t, g.instances(service))
	}
	assert.ElementsMatch(t, []string{"a", "d"}, g.watched())
}

func TestGateway_ClosesIdleViews(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) { s.Watch.Idle = etcdkit.Duration(50 * time.Millisecond) })
	before := g.svc.client.Watcher().Active()
	g.instances("a")
	eventually(t, func() bool { return g.svc.client.Watcher().Active() == before && len(g.watched()) == 0 }, "closed")
	g.instances("a")
}
