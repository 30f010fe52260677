package discovery_test

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/experimental/balancer/weight"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

func TestResolver_TargetSelectsInstances(t *testing.T) {
	t.Parallel()
	r, _ := newProcess(t, etcdtest.Prefix(t))
	for n, more := range []discovery.Instance{
		{Version: "v1", Zone: "x"},
		{Version: "v1", Zone: "y"},
		{Version: "v2", Zone: "x", Tags: []string{"t"}},
		{Version: "v2", Zone: "y"},
		{Version: "v3", Zone: "z", Tags: []string{"t", "u"}},
	} {
		s := serve(t, strconv.Itoa(n))
		i := s.instance("echo")
		i.Version, i.Zone, i.Tags = more.Version, more.Zone, more.Tags
		register(t, r, i)
	}
	for target, want := range map[string][]string{
		"etcd:///echo":                             {"0", "1", "2", "3", "4"},
		"etcd:///echo?version=v2":                  {"2", "3"},
		"etcd:///echo?version=v1&zone=y":           {"1"},
		"etcd:///echo?tag=t":                       {"2", "4"},
		"etcd:///echo?tag=u&tag=t":                 {"4"},
		"etcd:///echo?prefer=x&atleast=2":          {"0", "2"},
		"etcd:///echo?prefer=x&atleast=3":          {"0", "1", "2", "3", "4"},
		"etcd:///echo?version=v2&prefer=y":         {"3"},
		"etcd:///echo?version=v2&prefer=elsewhere": {"2", "3"},
	} {
		conn := dial(t, target, r.Resolver())
		for _, id := range want {
			parttest.Eventually(t, func() bool { who, err := call(withTestTimeout(t), conn); return err == nil && who == id }, "%s: %s", target, id)
		}
		for who := range countAnswers(t, conn, 20) {
			assert.Contains(t, want, who, target)
		}
	}
	assert.Equal(t, map[string]int{"3": 4}, countAnswers(t, dial(t, "etcd:///echo?zone=y", r.Resolver(discovery.OnlyVersion("v2"))), 4))
}

func TestResolver_RefusesInvalidTargets(t *testing.T) {
	t.Parallel()
	r, _ := newProcess(t, etcdtest.Prefix(t))
	_, err := call(withTestTimeout(t), dial(t, "etcd:///nobody", r.Resolver()))
	assert.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, `discovery: resolve "nobody": no instance`)
	for _, target := range []string{
		"etcd:///", "etcd:///a/b", "etcd://echo", "etcd://host/echo", "etcd:///echo?zine=x", "etcd:///echo?prefer=x&atleast=two", "etcd:///echo?a;b", "etcd:///%00",
		"etcd:///echo?atleast=3", "etcd:///echo?prefer=&atleast=3", "etcd:///echo?prefer=x&atleast=0", "etcd:///echo?prefer=x&atleast=",
		"etcd:///echo?version=v1&version=v2", "etcd:///echo?prefer=x&prefer=y", "etcd:///echo?prefer=x&atleast=1&atleast=2", "etcd:///echo#part",
	} {
		_, err := call(withTestTimeout(t), dial(t, target, r.Resolver()))
		assert.Equal(t, codes.Unavailable, status.Code(err), "%s: %v", target, err)
		assert.ErrorContains(t, err, "discovery: resolve", target)
	}
	require.NoError(t, r.Close())
	_, err = call(withTestTimeout(t), dial(t, "etcd:///echo", r.Resolver()))
	assert.ErrorContains(t, err, "registry closed")
}

// fakeConn is a connection that keeps what a resolver tells it.
type fakeConn struct {
	resolver.ClientConn

	states parttest.Recorder[resolver.State]
	errs   parttest.Recorder[error]
}

func (c *fakeConn) UpdateState(s resolver.State) error { c.states.Add(s); return nil }
func (c *fakeConn) ReportError(err error)              { c.errs.Add(err) }
func (c *fakeConn) ParseServiceConfig(s string) *serviceconfig.ParseResult {
	return &serviceconfig.ParseResult{Err: fmt.Errorf("%s", s)}
}

// resolve resolves a service for a connection that keeps what it is told.
func resolve(t *testing.T, r *discovery.Registry, service string, o ...discovery.PlaceOption) (*fakeConn, resolver.Resolver) {
	t.Helper()
	return build(t, r.Resolver(o...), service, resolver.BuildOptions{})
}

func build(t *testing.T, b resolver.Builder, service string, o resolver.BuildOptions) (*fakeConn, resolver.Resolver) {
	t.Helper()
	c := &fakeConn{}
	assert.Equal(t, "etcd", b.Scheme())
	target := resolver.Target{}
	target.URL.Scheme, target.URL.Path = "etcd", "/"+service
	res, err := b.Build(target, c, o)
	require.NoError(t, err)
	t.Cleanup(res.Close)
	return c, res
}

func TestResolver_PassesInstanceAttributes(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t))
	put(t, p, "services/echo/instances/a", `{"host":"h","port":1,"weight":7,"zone":"z"}`)
	c, _ := resolve(t, r, "echo")
	parttest.Eventually(t, func() bool { return len(c.states.All()) == 1 })
	st := c.states.All()[0]
	require.Len(t, st.Endpoints, 1)
	assert.Equal(t, "h:1", st.Endpoints[0].Addresses[0].Addr)
	assert.Equal(t, uint32(7), weight.FromEndpoint(st.Endpoints[0]).Weight)
	i, ok := discovery.InstanceOf(st.Endpoints[0])
	require.True(t, ok)
	assert.Equal(t, "z", i.Zone)
	_, ok = discovery.InstanceOf(resolver.Endpoint{})
	assert.False(t, ok)
	assert.ErrorContains(t, st.ServiceConfig.Err, roundrobin.Name)
	quiet, _ := build(t, r.Resolver(), "echo", resolver.BuildOptions{DisableServiceConfig: true})
	parttest.Eventually(t, func() bool { return len(quiet.states.All()) == 1 })
	assert.Nil(t, quiet.states.All()[0].ServiceConfig)
	same := quiet.states.All()[0].Endpoints[0]
	assert.True(t, same.Attributes.Equal(st.Endpoints[0].Attributes))
}

func TestResolver_DebouncesChanges(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t))
	c, _ := resolve(t, r, "echo")
	parttest.Eventually(t, func() bool {
		all := c.errs.All()
		return len(all) > 0 && errors.Is(all[len(all)-1], discovery.ErrNoInstance)
	})
	const n = 200
	began := time.Now()
	for i := range n {
		put(t, p, "services/echo/instances/a", fmt.Sprintf(`{"host":"h","port":%d}`, i+1))
	}
	parttest.Eventually(t, func() bool {
		all := c.states.All()
		if len(all) == 0 {
			return false
		}
		e := all[len(all)-1].Endpoints
		return len(e) == 1 && e[0].Addresses[0].Addr == fmt.Sprintf("h:%d", n)
	})
	received := len(c.states.All())
	assert.LessOrEqual(t, received, 2+int(time.Since(began)/(50*time.Millisecond)))
	put(t, p, "services/echo/instances/a", fmt.Sprintf(`{"host":"h","port":%d,"unknown":1}`, n))
	put(t, p, "services/echo/instances/b", `{"host":"h","port":1}`)
	parttest.Eventually(t, func() bool { all := c.states.All(); return len(all[len(all)-1].Endpoints) == 2 })
	assert.Len(t, c.states.All(), received+1)
}

func TestResolver_KeepsAddressesWhileEtcdIsDown(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	proxy.Refuse()
	direct, _ := newRegistry(t, srv.Client(t, parttest.Harden), "app")
	r, _ := newRegistry(t, etcdtest.NewClient(t, proxy.Endpoints(), parttest.Harden), "app")
	s := serve(t, "one")
	conn := dial(t, "etcd:///echo", r.Resolver(), grpc.WithIdleTimeout(0))
	waiting := make(chan error, 1)
	go func() {
		_, err := call(withTestTimeout(t), conn, grpc.WaitForReady(true))
		waiting <- err
	}()
	_, err := call(withTestTimeout(t), conn)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.ErrorContains(t, err, `discovery: resolve "echo"`)
	register(t, direct, s.instance("echo"))
	proxy.Accept()
	require.NoError(t, <-waiting, "who waits is served when etcd is back")

	proxy.Refuse()
	proxy.Cut()
	for range 20 {
		_, err := call(withTestTimeout(t), conn)
		require.NoError(t, err)
	}
	require.NoError(t, conn.Close())
	proxy.Accept()
}

func TestResolver_DialersServiceConfigWins(t *testing.T) { //nolint:paralleltest // it sets the environment
	r, _ := newProcess(t, etcdtest.Prefix(t))
	for n := range 3 {
		register(t, r, serve(t, strconv.Itoa(n)).instance("echo"))
	}
	one := grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"pick_first":{}}]}`)
	for _, proxy := range []string{"", "http://127.0.0.1:1"} {
		t.Setenv("HTTPS_PROXY", proxy)
		t.Setenv("NO_PROXY", "127.0.0.1")
		for name, tt := range map[string]struct {
			o    grpc.DialOption
			want int
		}{
			"none":            {grpc.EmptyDialOption{}, 3},
			"its own":         {one, 1},
			"none wanted":     {grpc.WithDisableServiceConfig(), 1},
			"without a proxy": {grpc.WithNoProxy(), 3},
		} {
			conn := dial(t, "etcd:///echo", r.Resolver(), tt.o)
			seen := map[string]bool{}
			parttest.Eventually(t, func() bool { // connections come up one after the other
				who, err := call(withTestTimeout(t), conn)
				seen[who] = true
				return err == nil && len(seen) == tt.want
			}, name)
			for who := range countAnswers(t, conn, 30) {
				seen[who] = true
			}
			assert.Len(t, seen, tt.want, name)
			require.NoError(t, conn.Close())
		}
	}
}

func TestResolver_ResolveNowRetriesAtOnce(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "u", Password: "p", Grants: []etcdtest.Grant{etcdtest.ReadWrite("mine/")}})
	r, _ := newRegistry(t, srv.Client(t, parttest.Harden, etcdtest.As("u", "p")), "theirs")
	c, res := resolve(t, r, "echo")
	parttest.Eventually(t, func() bool {
		res.ResolveNow(resolver.ResolveNowOptions{})
		return len(c.errs.All()) >= 20 // which takes longer than that otherwise
	})
	require.ErrorIs(t, c.errs.All()[0], discovery.ErrPermission)
	assert.Empty(t, c.states.All())
}

func TestResolver_ConnectionsShareView(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t))
	register(t, r, serve(t, "one").instance("echo"))
	const before = 1 // that of the registration's key
	parttest.Eventually(t, func() bool { return p.Watcher().Stats().ServerWatches == before })
	var conns []*grpc.ClientConn
	for range 10 {
		conn := dial(t, "etcd:///echo", r.Resolver())
		countAnswers(t, conn, 1)
		conns = append(conns, conn)
	}
	assert.Equal(t, before+1, p.Watcher().Stats().ServerWatches)
	for _, conn := range conns {
		require.NoError(t, conn.Close())
	}
	parttest.Eventually(t, func() bool { return p.Watcher().Stats().ServerWatches == before })
}

func TestResolver_FilterPanicKeepsAddresses(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t))
	s := serve(t, "one")
	register(t, r, s.instance("echo"))
	conn := dial(t, "etcd:///echo", r.Resolver(discovery.Only(func(i *discovery.Instance) bool { return i.Metadata["x"] == "" || i.Metadata["x"][1] == 'y' })))
	countAnswers(t, conn, 1)
	put(t, p, "services/echo/instances/two", `{"host":"127.0.0.1","port":1,"metadata":{"x":"x"}}`)
	seen := view(t, r, "echo")
	waitForInstances(t, seen, "one", "two")
	assert.Equal(t, map[string]int{"one": 20}, countAnswers(t, conn, 20))
	put(t, p, "services/echo/instances/two", fmt.Sprintf(`{"host":"127.0.0.1","port":%d,"metadata":{"x":"xy"}}`, serve(t, "two").port))
	parttest.Eventually(t, func() bool { return len(countAnswers(t, conn, 10)) == 2 })
}
