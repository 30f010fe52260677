package discovery_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

func TestLayout_WritesDocumentedFormat(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	r, p := newProcess(t, dir)
	i := newInstance("orders", "a")
	i.Zone, i.Weight, i.Tags, i.Metadata = "eu-1a", 2, []string{"canary"}, map[string]string{"owner": "payments"}
	reg := register(t, r, i)
	resp, err := p.Raw.Get(t.Context(), dir+"services/orders/instances/a")
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
	assert.NotZero(t, resp.Kvs[0].Lease)
	assert.JSONEq(t, fmt.Sprintf(`{"serviceName":"orders","instanceId":"a","host":"10.0.0.1","port":8080,"zone":"eu-1a",
		"weight":2,"tags":["canary"],"metadata":{"owner":"payments"},"status":"up","registrationTime":%q}`,
		reg.Instance().Registered.Format(time.RFC3339Nano)), string(resp.Kvs[0].Value))
}

func TestWithBadEntry_PanicIsRecovered(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t), discovery.WithBadEntry(func(string, int64, error) { panic("at the disco") }))
	put(t, p, "services/orders/instances/a", "x")
	s := view(t, r, "orders")
	put(t, p, "services/orders/instances/b", `{"host":"h","port":1}`)
	waitForInstances(t, s, "b")
	assert.Zero(t, s.Stats().Restarts)
}

func TestLayout_ReadsForeignEntries(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		value string
		want  discovery.Instance
	}{
		"the least":                    {`{"host":"h","port":1}`, discovery.Instance{Host: "h", Port: 1, Status: discovery.Up}},
		"members that nobody knows":    {`{"host":"h","port":1,"x":{"y":[]}}`, discovery.Instance{Host: "h", Port: 1, Status: discovery.Up}},
		"a time in milliseconds":       {`{"host":"h","port":1,"registrationTime":1700000000000}`, discovery.Instance{Host: "h", Port: 1, Status: discovery.Up, Registered: time.UnixMilli(1700000000000).UTC()}},
		"an invalid time":              {`{"host":"h","port":1,"registrationTime":"noon"}`, discovery.Instance{Host: "h", Port: 1, Status: discovery.Up}},
		"a status that nobody knows":   {`{"host":"h","port":1,"status":"tired"}`, discovery.Instance{Host: "h", Port: 1, Status: "tired"}},
		"metadata beyond our limit":    {`{"host":"h","port":1,"metadata":{"k":"` + string(longText()) + `"}}`, discovery.Instance{Host: "h", Port: 1, Status: discovery.Up, Metadata: map[string]string{"k": string(longText())}}},
		"an IPv6 address":              {`{"host":"::1","port":1}`, discovery.Instance{Host: "::1", Port: 1, Status: discovery.Up}},
		"a weight that is beyond ours": {`{"host":"h","port":1,"weight":1000000}`, discovery.Instance{Host: "h", Port: 1, Status: discovery.Up, Weight: discovery.MaxWeight}},
	}
	dir := etcdtest.Prefix(t)
	r, p := newProcess(t, dir)
	for name, tt := range cases {
		put(t, p, "services/"+name+"/instances/a", tt.value)
		tt.want.Service, tt.want.ID = name, "a"
		got := view(t, r, name).Instances()
		if assert.Len(t, got, 1, name) {
			assert.Equal(t, tt.want, got[0], name)
		}
	}
}

func longText() []byte {
	b := make([]byte, 2<<10)
	for i := range b {
		b[i] = 'x'
	}
	return b
}

func TestView_SkipsAndReportsMalformedEntries(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	var reports parttest.Recorder[string]
	r, p := newProcess(t, dir, discovery.WithBadEntry(func(key string, rev int64, err error) {
		assert.Positive(t, rev)
		reports.Add(key + ": " + err.Error())
	}))
	values := map[string]string{
		"no-json": "secret", "no-object": `["secret"]`, "no-host": `{"port":1}`, "no-port": `{"host":"h"}`, "far-port": `{"host":"h","port":70000}`,
		"text-port": `{"host":"h","port":"1"}`, "bad-host": `{"host":"secret/","port":1}`, "light": `{"host":"h","port":1,"weight":-1}`,
		"other-id": `{"instanceId":"x","host":"h","port":1}`, "other-service": `{"serviceName":"x","host":"h","port":1}`, "deep/er": `{"host":"h","port":1}`,
	}
	for id, value := range values {
		put(t, p, "services/orders/instances/"+id, value)
	}
	register(t, r, newInstance("orders", "good"))
	s := view(t, r, "orders")
	assert.Equal(t, []string{"good"}, instanceIDs(s.Instances()))
	assert.Equal(t, len(values), s.Stats().Malformed)
	assert.Len(t, reports.All(), len(values))
	for _, report := range reports.All() {
		assert.NotContains(t, report, "secret", "values are not told")
	}
	put(t, p, "services/orders/instances/fine", `{"host":"h","port":1}`)
	waitForInstances(t, s, "fine", "good")
	put(t, p, "services/orders/instances/fine", `{"host":`)
	parttest.Eventually(t, func() bool { return s.Stats().Malformed == len(values)+1 })
	assert.Equal(t, []string{"fine", "good"}, instanceIDs(s.Instances()), "what was known before stays")
	_, err := p.Raw.Delete(t.Context(), dir+"services/orders/instances/", clientv3.WithPrefix(), clientv3.WithRange(dir+"services/orders/instances/g"))
	require.NoError(t, err)
	waitForInstances(t, s, "good")
	put(t, p, "services/orders/instances/light", `{"host":"h","port":1,"weight":1}`)
	waitForInstances(t, s, "good", "light")
	st := s.Stats()
	assert.Equal(t, uint64(len(values)+1), st.BadSeen)
	assert.Less(t, st.Malformed, len(values))
}

// put writes a key below the parts' dir as somebody else would.
func put(tb testing.TB, p *parttest.Parts, key, value string) {
	tb.Helper()
	_, err := p.Raw.Put(withTestTimeout(tb), p.Dir+key, value)
	require.NoError(tb, err)
}

func TestRegistry_ServicesAndFollowServices(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]discovery.Option{"native": nil, "gRPC naming": discovery.WithGRPCNaming()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, p := newProcess(t, etcdtest.Prefix(t), option)
			put(t, p, "config/http/limit", "7")
			put(t, p, "locks/x", "")
			var received parttest.Recorder[[]string]
			stop := r.FollowServices(received.Add)
			is := func(want ...string) {
				t.Helper()
				parttest.Eventually(t, func() bool {
					all := received.All()
					return len(all) > 0 && assert.ObjectsAreEqual(append([]string{}, want...), all[len(all)-1])
				}, "%v: %v", want, received.All())
				got, err := r.Services(withTestTimeout(t))
				require.NoError(t, err)
				assert.Equal(t, append([]string{}, want...), got)
			}
			is()
			one := register(t, r, newInstance("orders", "a"))
			two := register(t, r, newInstance("orders", "b"))
			register(t, r, newInstance("users", "a"))
			is("orders", "users")
			require.NoError(t, one.Close())
			require.NoError(t, two.Close())
			is("users")
			stop()
			n := len(received.All())
			register(t, r, newInstance("carts", "a"))
			got, err := r.Services(withTestTimeout(t))
			require.NoError(t, err)
			assert.Equal(t, []string{"carts", "users"}, got)
			assert.Len(t, received.All(), n, "no call after stop")
		})
	}
}

func TestGRPCNaming_IsCompatibleBothWays(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	r, p := newProcess(t, dir, discovery.WithGRPCNaming())
	manager, err := endpoints.NewManager(p.Raw, dir+"orders")
	require.NoError(t, err)
	add := func(id string, ep endpoints.Endpoint) {
		t.Helper()
		require.NoError(t, manager.AddEndpoint(t.Context(), dir+"orders/"+id, ep))
	}
	add("text", endpoints.Endpoint{Addr: "10.1.1.1:1", Metadata: "hello"})
	add("object", endpoints.Endpoint{Addr: "[::1]:2", Metadata: map[string]any{"weight": 7, "zone": "eu"}})
	add("none", endpoints.Endpoint{Addr: "host:3"})
	add("deep/er", endpoints.Endpoint{Addr: "host:4"})
	add("unix", endpoints.Endpoint{Addr: "unix:///x"})
	s := view(t, r, "orders")
	up := discovery.Up
	assert.Equal(t, []discovery.Instance{
		{Service: "orders", ID: "deep/er", Host: "host", Port: 4, Status: up},
		{Service: "orders", ID: "none", Host: "host", Port: 3, Status: up},
		{Service: "orders", ID: "object", Host: "::1", Port: 2, Status: up, Metadata: map[string]string{"weight": "7", "zone": "eu"}},
		{Service: "orders", ID: "text", Host: "10.1.1.1", Port: 1, Status: up, Metadata: map[string]string{"metadata": "hello"}},
	}, s.Instances())
	assert.Equal(t, 1, s.Stats().Malformed)

	updates, err := manager.NewWatchChannel(t.Context())
	require.NoError(t, err)
	<-updates
	i := newInstance("orders", "ours")
	i.Zone, i.Tags, i.Metadata = "eu", []string{"t"}, map[string]string{"k": "v"}
	reg := register(t, r, i)
	up1 := <-updates
	require.Len(t, up1, 1)
	assert.Equal(t, endpoints.Add, up1[0].Op)
	assert.Equal(t, "10.0.0.1:8080", up1[0].Endpoint.Addr)
	meta, ok := up1[0].Endpoint.Metadata.(map[string]any)
	require.True(t, ok)
	assert.Equal(t, "eu", meta["zone"])
	parttest.Eventually(t, func() bool { return len(s.Instances()) == 5 })
	got := s.Instances()[3]
	i.Status, i.Registered = discovery.Up, reg.Instance().Registered
	assert.Equal(t, i, got, "our own come back whole")
	list, err := manager.List(t.Context())
	require.NoError(t, err)
	assert.Contains(t, list, dir+"orders/ours")
	require.NoError(t, reg.Close())
	for ups := range updates {
		if ups[0].Op == endpoints.Delete {
			assert.Equal(t, dir+"orders/ours", ups[0].Key)
			break
		}
	}
	require.NoError(t, manager.DeleteEndpoint(t.Context(), dir+"orders/text"))
	waitForInstances(t, s, "deep/er", "none", "object")
}

func TestGRPCNaming_EntryWithoutMetadataHasNoMetadata(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t), discovery.WithGRPCNaming())
	put(t, p, "orders/absent", `{"Addr":"host:1"}`)
	put(t, p, "orders/null", `{"Addr":"host:2","Metadata":null}`)
	put(t, p, "orders/empty", `{"Addr":"host:3","Metadata":{}}`)
	up := discovery.Up
	assert.Equal(t, []discovery.Instance{
		{Service: "orders", ID: "absent", Host: "host", Port: 1, Status: up},
		{Service: "orders", ID: "empty", Host: "host", Port: 3, Status: up},
		{Service: "orders", ID: "null", Host: "host", Port: 2, Status: up},
	}, view(t, r, "orders").Instances())
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"host":"h","port":1}`, `{"Op":0,"Addr":"h:1","Metadata":{"serviceName":"s","instanceId":"a","weight":7}}`,
		`{"host":"::1","port":65535,"registrationTime":1e3,"tags":["a"],"metadata":{"a":"b"},"status":"draining"}`,
		`{"Op":1,"Addr":"","Metadata":null}`, `null`, `7`, `{"registrationTime":"2026-01-02T03:04:05Z","host":"h","port":1}`,
	} {
		f.Add("a", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, id string, value []byte) {
		for _, naming := range []bool{false, true} {
			i, err := discovery.Decode(naming, "s", id, value)
			if err != nil {
				assert.Nil(t, i)
				continue
			}
			assert.Equal(t, "s", i.Service)
			assert.Equal(t, id, i.ID)
			assert.NotEmpty(t, i.Host)
			assert.True(t, i.Port > 0 && i.Port < 1<<16, i.Port)
			assert.True(t, i.Weight >= 0 && i.Weight <= discovery.MaxWeight, i.Weight)
			if !utf8.ValidString(id) {
				continue
			}
			again, err := discovery.Encode(naming, i)
			if _, err := json.Marshal(i.Registered); err != nil {
				continue // a year beyond 9999
			}
			require.NoError(t, err)
			back, err := discovery.Decode(naming, "s", id, again)
			require.NoError(t, err, "%s", again)
			assert.True(t, discovery.Same(i, back), "%v\n%v", i, back)
		}
	})
}
