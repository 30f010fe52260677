package discovery_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental/balancer/weight"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	naming "go.etcd.io/etcd/client/v3/naming/resolver"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// sayMethod is that of the service that the test servers have: it answers with the name of the server.
const (
	sayService = "test.Echo"
	sayMethod  = "/" + sayService + "/Say"
)

// server is a gRPC server.
type server struct {
	*grpc.Server

	name    string
	port    int
	held    chan struct{} // calls wait for it, if it is not nil
	entered atomic.Int64
	stopped chan struct{} // closed when it serves no more
}

func serve(tb testing.TB, name string, services ...string) *server {
	tb.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	s := &server{Server: grpc.NewServer(), name: name, port: l.Addr().(*net.TCPAddr).Port, stopped: make(chan struct{})}
	if len(services) == 0 {
		services = []string{sayService}
	}
	for _, service := range services {
		s.offer(service)
	}
	healthpb.RegisterHealthServer(s.Server, health.NewServer())
	go func() {
		defer close(s.stopped)
		_ = s.Serve(l)
	}()
	tb.Cleanup(s.Stop)
	return s
}

// echoServer is a server for an example.
func echoServer(ctx context.Context, name string) (srv *grpc.Server, port int) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	must(err)
	s := &server{Server: grpc.NewServer(), name: name}
	s.offer(sayService)
	go func() { _ = s.Serve(l) }()
	return s.Server, l.Addr().(*net.TCPAddr).Port
}

// offer gives the server a service that answers with its name.
func (s *server) offer(service string) {
	handler := func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		s.entered.Add(1)
		if s.held != nil {
			<-s.held
		}
		if err := dec(&wrapperspb.StringValue{}); err != nil {
			return nil, err
		}
		return wrapperspb.String(s.name), nil
	}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Say", Handler: handler}},
	}, s)
}

// instance is where a server is, as an instance of a service.
func (s *server) instance(service string) discovery.Instance {
	return discovery.Instance{Service: service, ID: s.name, Host: "127.0.0.1", Port: s.port}
}

// dial dials a target through the resolver of a registry.
func dial(tb testing.TB, target string, b resolver.Builder, o ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	o = append(o, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(b))
	conn, err := grpc.NewClient(target, o...)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

// say makes a call, and says which server has answered.
func say(ctx context.Context, conn *grpc.ClientConn, o ...grpc.CallOption) (string, error) {
	var out wrapperspb.StringValue
	err := conn.Invoke(ctx, sayMethod, wrapperspb.String("who"), &out, o...)
	return out.GetValue(), err
}

// answers is who answers n calls.
func answers(tb testing.TB, conn *grpc.ClientConn, n int) map[string]int {
	tb.Helper()
	out := map[string]int{}
	for range n {
		who, err := say(timely(tb), conn)
		require.NoError(tb, err)
		out[who]++
	}
	return out
}

func TestGRPCServersAreRegisteredFoundAndDrained(t *testing.T) {
	t.Parallel()
	const delay = 1500 * time.Millisecond
	dir := etcdtest.Prefix(t)
	r, p := process(t, dir)
	clients, _ := process(t, dir)
	one, two := serve(t, "one", sayService, "test.Other"), serve(t, "two")
	both, err := r.RegisterGRPC(timely(t), one.Server, one.instance(""), discovery.WithDrainDelay(delay))
	require.NoError(t, err)
	_, err = r.RegisterGRPC(timely(t), two.Server, two.instance("echo"))
	require.NoError(t, err)
	names, err := clients.Services(timely(t))
	require.NoError(t, err)
	assert.Equal(t, []string{"echo", "test.Echo", "test.Other"}, names, "health checking is not among them")
	conn := dial(t, "etcd:///test.Echo", clients.Resolver())
	assert.Equal(t, map[string]int{"one": 3}, answers(t, conn, 3))
	assert.Equal(t, map[string]int{"two": 3}, answers(t, dial(t, "etcd:echo", clients.Resolver()), 3))

	i := one.instance("")
	i.Version = "v2"
	require.NoError(t, both.Update(timely(t), i))
	other, echo := view(t, clients, "test.Other"), view(t, clients, "test.Echo")
	eventually(t, func() bool { return other.Instances()[0].Version == "v2" && echo.Instances()[0].Version == "v2" })
	assert.Equal(t, "test.Other", other.Instances()[0].Service)

	began := time.Now()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		assert.NoError(t, both.Close())
	}()
	eventually(t, func() bool { l := echo.Instances(); return len(l) == 1 && l[0].Status == discovery.Draining })
	select {
	case <-one.stopped:
		t.Error("the listener is closed before clients have been told")
	default:
	}
	shows(t, echo)
	<-closed
	<-one.stopped
	eventually(t, func() bool { _, err := say(timely(t), conn); return status.Code(err) == codes.Unavailable }, "it fails at once")
	assert.GreaterOrEqual(t, time.Since(began), delay)
	assert.Len(t, keys(t, p.cli, dir), 1)

	_, err = r.RegisterGRPC(timely(t), nil, one.instance("x"))
	require.ErrorIs(t, err, discovery.ErrInvalid)
	_, err = r.RegisterGRPC(timely(t), grpc.NewServer(), one.instance(""))
	require.ErrorIs(t, err, discovery.ErrInvalid)
	three := serve(t, "two")
	_, err = discovery.New(newParts(t, etcdtest.Client(t), dir), discovery.WithTTL(time.Hour)).RegisterGRPC(canceled(t), three.Server, three.instance("x"))
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, map[string]int{"two": 1}, answers(t, dialAddr(t, three), 1), "the server of a registration that failed is left alone")
}

func canceled(t *testing.T) context.Context {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	return ctx
}

func dialAddr(t *testing.T, s *server) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", s.port), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestAServerIsStoppedWithCallsThatTakeTooLong(t *testing.T) {
	t.Parallel()
	r, _ := process(t, etcdtest.Prefix(t))
	s := serve(t, "slow")
	s.held = make(chan struct{})
	reg, err := r.RegisterGRPC(timely(t), s.Server, s.instance("echo"), discovery.WithDrainDelay(0), discovery.WithStopWait(100*time.Millisecond))
	require.NoError(t, err)
	conn := dial(t, "etcd:///echo", r.Resolver())
	failed := make(chan error)
	go func() {
		_, err := say(timely(t), conn)
		failed <- err
	}()
	eventually(t, func() bool { return s.entered.Load() == 1 })
	done := make(chan struct{})
	go func() { // Stop waits for the handler
		assert.NoError(t, reg.Close())
		close(done)
	}()
	require.Error(t, <-failed)
	close(s.held)
	<-done
}

func TestARollingRestartUnderLoadFailsNoCall(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	const n = 10
	delay := discovery.WithDrainDelay(300 * time.Millisecond)
	r, _ := process(t, dir)
	clients, _ := process(t, dir)
	var regs [n]*discovery.Registration
	start := func(i, round int) {
		s := serve(t, fmt.Sprintf("%d/%d", i, round))
		in := s.instance("echo")
		in.ID = strconv.Itoa(i)
		reg, err := r.RegisterGRPC(timely(t), s.Server, in, delay)
		require.NoError(t, err)
		regs[i] = reg
	}
	for i := range n {
		start(i, 0)
	}
	conn := dial(t, "etcd:///echo", clients.Resolver())
	var calls, failures atomic.Int64
	var seen sync.Map
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(t.Context(), within)
				who, err := say(ctx, conn)
				cancel()
				calls.Add(1)
				if err != nil {
					failures.Add(1)
					t.Log(err)
				}
				seen.Store(who, true)
			}
		})
	}
	for round := range size(1, 10) {
		for i := range n {
			require.NoError(t, regs[i].Close())
			start(i, round+1)
		}
	}
	eventually(t, func() bool { // all of the last round have work
		for i := range n {
			if _, ok := seen.Load(fmt.Sprintf("%d/%d", i, size(1, 10))); !ok {
				return false
			}
		}
		return true
	})
	close(stop)
	load.Wait()
	t.Logf("%d calls, %d failed", calls.Load(), failures.Load())
	assert.Zero(t, failures.Load())
	assert.Greater(t, calls.Load(), int64(100))
}

func TestATargetSelects(t *testing.T) {
	t.Parallel()
	r, _ := process(t, etcdtest.Prefix(t))
	for n, more := range []discovery.Instance{
		{Version: "v1", Zone: "x"}, {Version: "v1", Zone: "y"}, {Version: "v2", Zone: "x", Tags: []string{"t"}}, {Version: "v2", Zone: "y"},
	} {
		s := serve(t, strconv.Itoa(n))
		i := s.instance("echo")
		i.Version, i.Zone, i.Tags = more.Version, more.Zone, more.Tags
		register(t, r, i)
	}
	for target, want := range map[string][]string{
		"etcd:///echo":                             {"0", "1", "2", "3"},
		"etcd:///echo?version=v2":                  {"2", "3"},
		"etcd:///echo?version=v1&zone=y":           {"1"},
		"etcd:///echo?tag=t":                       {"2"},
		"etcd:///echo?prefer=x&atleast=2":          {"0", "2"},
		"etcd:///echo?prefer=x&atleast=3":          {"0", "1", "2", "3"},
		"etcd:///echo?version=v2&prefer=y":         {"3"},
		"etcd:///echo?version=v2&prefer=elsewhere": {"2", "3"},
	} {
		conn := dial(t, target, r.Resolver())
		for _, id := range want {
			eventually(t, func() bool { who, err := say(timely(t), conn); return err == nil && who == id }, "%s: %s", target, id)
		}
		for who := range answers(t, conn, 20) {
			assert.Contains(t, want, who, target)
		}
	}
	assert.Equal(t, map[string]int{"3": 4}, answers(t, dial(t, "etcd:///echo?zone=y", r.Resolver(discovery.OnlyVersion("v2"))), 4))
}

func TestBadTargetsAreRefused(t *testing.T) {
	t.Parallel()
	r, _ := process(t, etcdtest.Prefix(t))
	_, err := say(timely(t), dial(t, "etcd:///nobody", r.Resolver()))
	assert.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, `discovery: resolve "nobody": discovery: no instance`)
	for _, target := range []string{
		"etcd:///", "etcd:///a/b", "etcd://echo", "etcd://host/echo", "etcd:///echo?zine=x", "etcd:///echo?prefer=x&atleast=two", "etcd:///echo?a;b", "etcd:///%00",
	} {
		_, err := say(timely(t), dial(t, target, r.Resolver()))
		assert.Equal(t, codes.Unavailable, status.Code(err), "%s: %v", target, err)
		assert.ErrorContains(t, err, "discovery: resolve", target)
	}
	require.NoError(t, r.Close())
	_, err = say(timely(t), dial(t, "etcd:///echo", r.Resolver()))
	assert.ErrorContains(t, err, "closed")
}

// fakeConn is a connection that keeps what a resolver tells it.
type fakeConn struct {
	resolver.ClientConn

	states journal[resolver.State]
	errs   journal[error]
}

func (c *fakeConn) UpdateState(s resolver.State) error { c.states.add(s); return nil }
func (c *fakeConn) ReportError(err error)              { c.errs.add(err) }
func (c *fakeConn) ParseServiceConfig(s string) *serviceconfig.ParseResult {
	return &serviceconfig.ParseResult{Err: fmt.Errorf("%s", s)}
}

func resolve(t *testing.T, r *discovery.Registry, o resolver.BuildOptions) (*fakeConn, resolver.Resolver) {
	t.Helper()
	c := &fakeConn{}
	b := r.Resolver()
	assert.Equal(t, "etcd", b.Scheme())
	target := resolver.Target{}
	target.URL.Scheme, target.URL.Path = "etcd", "/echo"
	res, err := b.Build(target, c, o)
	require.NoError(t, err)
	t.Cleanup(res.Close)
	return c, res
}

func TestGRPCIsToldWhatIsKnownOfAnInstance(t *testing.T) {
	t.Parallel()
	r, p := process(t, etcdtest.Prefix(t))
	put(t, p, "services/echo/instances/a", `{"host":"h","port":1,"weight":7,"zone":"z"}`)
	c, _ := resolve(t, r, resolver.BuildOptions{})
	eventually(t, func() bool { return len(c.states.all()) == 1 })
	st := c.states.all()[0]
	require.Len(t, st.Endpoints, 1)
	assert.Equal(t, "h:1", st.Endpoints[0].Addresses[0].Addr)
	assert.Equal(t, uint32(7), weight.FromEndpoint(st.Endpoints[0]).Weight)
	i, ok := discovery.InstanceOf(st.Endpoints[0])
	require.True(t, ok)
	assert.Equal(t, "z", i.Zone)
	_, ok = discovery.InstanceOf(resolver.Endpoint{})
	assert.False(t, ok)
	assert.ErrorContains(t, st.ServiceConfig.Err, roundrobin.Name)
	quiet, _ := resolve(t, r, resolver.BuildOptions{DisableServiceConfig: true})
	eventually(t, func() bool { return len(quiet.states.all()) == 1 })
	assert.Nil(t, quiet.states.all()[0].ServiceConfig)
	same := quiet.states.all()[0].Endpoints[0]
	assert.True(t, same.Attributes.Equal(st.Endpoints[0].Attributes))
}

func TestChangesAreDebouncedAndRepetitionsLeftOut(t *testing.T) {
	t.Parallel()
	r, p := process(t, etcdtest.Prefix(t))
	c, _ := resolve(t, r, resolver.BuildOptions{})
	eventually(t, func() bool { return len(c.errs.all()) == 1 })
	require.ErrorIs(t, c.errs.all()[0], discovery.ErrNoInstance)
	const n = 200
	for i := range n {
		put(t, p, "services/echo/instances/a", fmt.Sprintf(`{"host":"h","port":%d}`, i+1))
	}
	eventually(t, func() bool {
		all := c.states.all()
		if len(all) == 0 {
			return false
		}
		e := all[len(all)-1].Endpoints
		return len(e) == 1 && e[0].Addresses[0].Addr == fmt.Sprintf("h:%d", n)
	})
	told := len(c.states.all())
	assert.Less(t, told, n/2)
	put(t, p, "services/echo/instances/a", fmt.Sprintf(`{"host":"h","port":%d,"unknown":1}`, n))
	put(t, p, "services/echo/instances/b", `{"host":"h","port":1}`)
	eventually(t, func() bool { all := c.states.all(); return len(all[len(all)-1].Endpoints) == 2 })
	assert.Len(t, c.states.all(), told+1)
}

func TestAResolverReportsUntilEtcdAnswersAndKeepsAddressesAfterwards(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	proxy.Refuse()
	direct, _ := over(t, srv.Client(t, harden), "app")
	r, _ := over(t, etcdtest.NewClient(t, proxy.Endpoints(), harden), "app")
	s := serve(t, "one")
	conn := dial(t, "etcd:///echo", r.Resolver(), grpc.WithIdleTimeout(0))
	waiting := make(chan error, 1)
	go func() {
		_, err := say(timely(t), conn, grpc.WaitForReady(true))
		waiting <- err
	}()
	_, err := say(timely(t), conn)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.ErrorContains(t, err, `discovery: resolve "echo"`)
	register(t, direct, s.instance("echo"))
	proxy.Accept()
	require.NoError(t, <-waiting, "who waits is served when etcd is back")

	proxy.Refuse()
	proxy.Cut()
	for range 20 {
		_, err := say(timely(t), conn)
		require.NoError(t, err)
	}
	require.NoError(t, conn.Close())
	proxy.Accept()
}

func TestTheDialersServiceConfigWins(t *testing.T) { //nolint:paralleltest // it sets the environment
	r, _ := process(t, etcdtest.Prefix(t))
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
			eventually(t, func() bool { // connections come up one after the other
				who, err := say(timely(t), conn)
				seen[who] = true
				return err == nil && len(seen) == tt.want
			}, name)
			for who := range answers(t, conn, 30) {
				seen[who] = true
			}
			assert.Len(t, seen, tt.want, name)
			require.NoError(t, conn.Close())
		}
	}
}

func TestResolveNowHurriesAViewThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "u", Password: "p", Grants: []etcdtest.Grant{etcdtest.ReadWrite("mine/")}})
	r, _ := over(t, srv.Client(t, harden, etcdtest.As("u", "p")), "theirs")
	c, res := resolve(t, r, resolver.BuildOptions{})
	eventually(t, func() bool {
		res.ResolveNow(resolver.ResolveNowOptions{})
		return len(c.errs.all()) >= 20 // which takes longer than that otherwise
	})
	require.ErrorIs(t, c.errs.all()[0], discovery.ErrPermission)
	assert.Empty(t, c.states.all())
}

func TestConnectionsShareAViewAndCloseIt(t *testing.T) {
	t.Parallel()
	r, p := process(t, etcdtest.Prefix(t))
	register(t, r, serve(t, "one").instance("echo"))
	const before = 1 // that of the registration's key
	eventually(t, func() bool { return p.watcher.Stats().ServerWatches == before })
	var conns []*grpc.ClientConn
	for range 10 {
		conn := dial(t, "etcd:///echo", r.Resolver())
		answers(t, conn, 1)
		conns = append(conns, conn)
	}
	assert.Equal(t, before+1, p.watcher.Stats().ServerWatches)
	for _, conn := range conns {
		require.NoError(t, conn.Close())
	}
	eventually(t, func() bool { return p.watcher.Stats().ServerWatches == before })
}

func TestGRPCNamingResolversFindEachOthersServers(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	r, p := process(t, dir, discovery.WithGRPCNaming())
	s := serve(t, "one")
	_, err := r.RegisterGRPC(timely(t), s.Server, s.instance("echo"))
	require.NoError(t, err)
	b, err := naming.NewBuilder(p.cli)
	require.NoError(t, err)
	assert.Equal(t, map[string]int{"one": 3}, answers(t, dial(t, "etcd:///"+dir+"echo", b), 3))
	assert.Equal(t, map[string]int{"one": 3}, answers(t, dial(t, "etcd:///echo", r.Resolver()), 3))
}

func TestAFilterThatPanicsLeavesTheLastAddresses(t *testing.T) {
	t.Parallel()
	r, p := process(t, etcdtest.Prefix(t))
	s := serve(t, "one")
	register(t, r, s.instance("echo"))
	conn := dial(t, "etcd:///echo", r.Resolver(discovery.Only(func(i *discovery.Instance) bool { return i.Metadata["x"] == "" || i.Metadata["x"][1] == 'y' })))
	answers(t, conn, 1)
	put(t, p, "services/echo/instances/two", `{"host":"127.0.0.1","port":1,"metadata":{"x":"x"}}`)
	seen := view(t, r, "echo")
	shows(t, seen, "one", "two")
	assert.Equal(t, map[string]int{"one": 20}, answers(t, conn, 20))
	put(t, p, "services/echo/instances/two", fmt.Sprintf(`{"host":"127.0.0.1","port":%d,"metadata":{"x":"xy"}}`, serve(t, "two").port))
	eventually(t, func() bool { return len(answers(t, conn, 10)) == 2 })
}
