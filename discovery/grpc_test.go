package discovery_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	naming "go.etcd.io/etcd/client/v3/naming/resolver"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// sayMethod is that of the service that the test servers have: it answers with the name of the
// server.
const (
	sayService = "test.Echo"
	sayMethod  = "/" + sayService + "/Say"
)

// testServer is a gRPC server.
type testServer struct {
	*grpc.Server

	name      string
	port      int
	held      chan struct{} // calls wait for it, if it is not nil
	entered   atomic.Int64
	accepted  atomic.Int64  // connections
	authority atomic.Value  // of the last call
	stopped   chan struct{} // closed when it serves no more
}

// countingListener is a listener that counts connections.
type countingListener struct {
	net.Listener

	n *atomic.Int64
}

func (c countingListener) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

func serve(tb testing.TB, name string, services ...string) *testServer {
	tb.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	s := &testServer{Server: grpc.NewServer(), name: name, port: l.Addr().(*net.TCPAddr).Port, stopped: make(chan struct{})}
	if len(services) == 0 {
		services = []string{sayService}
	}
	for _, service := range services {
		s.offer(service)
	}
	healthpb.RegisterHealthServer(s.Server, health.NewServer())
	go func() {
		defer close(s.stopped)
		_ = s.Serve(countingListener{l, &s.accepted})
	}()
	tb.Cleanup(s.Stop)
	return s
}

// echoServer is a server for an example.
func echoServer(ctx context.Context, name string) (srv *grpc.Server, port int) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	must(err)
	s := &testServer{Server: grpc.NewServer(), name: name}
	s.offer(sayService)
	go func() { _ = s.Serve(l) }()
	return s.Server, l.Addr().(*net.TCPAddr).Port
}

// offer gives the server a service that answers with its name.
func (s *testServer) offer(service string) {
	handler := func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		if md, ok := metadata.FromIncomingContext(ctx); ok {
			s.authority.Store(strings.Join(md.Get(":authority"), ","))
		}
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
func (s *testServer) instance(service string) discovery.Instance {
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

// call makes a call and returns the name of the server that answered.
func call(ctx context.Context, conn *grpc.ClientConn, o ...grpc.CallOption) (string, error) {
	var out wrapperspb.StringValue
	err := conn.Invoke(ctx, sayMethod, wrapperspb.String("who"), &out, o...)
	return out.GetValue(), err
}

// countAnswers makes n calls and counts them by server.
func countAnswers(tb testing.TB, conn *grpc.ClientConn, n int) map[string]int {
	tb.Helper()
	out := map[string]int{}
	for range n {
		who, err := call(withTestTimeout(tb), conn)
		require.NoError(tb, err)
		out[who]++
	}
	return out
}

func TestRegisterGRPC_RegistersAndDrains(t *testing.T) {
	t.Parallel()
	const delay = 1500 * time.Millisecond
	dir := etcdtest.Prefix(t)
	r, p := newProcess(t, dir)
	clients, _ := newProcess(t, dir)
	one, two := serve(t, "one", sayService, "test.Other"), serve(t, "two")
	both, err := r.RegisterGRPC(withTestTimeout(t), one.Server, one.instance(""), discovery.WithDrainDelay(delay))
	require.NoError(t, err)
	_, err = r.RegisterGRPC(withTestTimeout(t), two.Server, two.instance("echo"))
	require.NoError(t, err)
	names, err := clients.Services(withTestTimeout(t))
	require.NoError(t, err)
	assert.Equal(t, []string{"echo", "test.Echo", "test.Other"}, names, "health checking is not among them")
	conn := dial(t, "etcd:///test.Echo", clients.Resolver())
	assert.Equal(t, map[string]int{"one": 3}, countAnswers(t, conn, 3))
	assert.Equal(t, map[string]int{"two": 3}, countAnswers(t, dial(t, "etcd:echo", clients.Resolver()), 3))

	i := one.instance("")
	i.Version = "v2"
	require.NoError(t, both.Update(withTestTimeout(t), i))
	other, echo := view(t, clients, "test.Other"), view(t, clients, "test.Echo")
	parttest.Eventually(t, func() bool { return other.Instances()[0].Version == "v2" && echo.Instances()[0].Version == "v2" })
	assert.Equal(t, "test.Other", other.Instances()[0].Service)

	began := time.Now()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		assert.NoError(t, both.Close())
	}()
	parttest.Eventually(t, func() bool { l := echo.Instances(); return len(l) == 1 && l[0].Status == discovery.Draining })
	select {
	case <-one.stopped:
		t.Error("the listener is closed before clients have been told")
	default:
	}
	waitForInstances(t, echo)
	<-closed
	<-one.stopped
	parttest.Eventually(t, func() bool { _, err := call(withTestTimeout(t), conn); return status.Code(err) == codes.Unavailable }, "it fails at once")
	assert.GreaterOrEqual(t, time.Since(began), delay)
	assert.Len(t, keyLeases(t, p.Raw, dir), 1)

	_, err = r.RegisterGRPC(withTestTimeout(t), nil, one.instance("x"))
	require.ErrorIs(t, err, discovery.ErrInvalid)
	_, err = r.RegisterGRPC(withTestTimeout(t), grpc.NewServer(), one.instance(""))
	require.ErrorIs(t, err, discovery.ErrInvalid)
	three := serve(t, "two")
	_, err = etcdtest.Must(discovery.New(parttest.New(t, etcdtest.Client(t), dir), discovery.WithTTL(time.Hour))).RegisterGRPC(canceled(t), three.Server, three.instance("x"))
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, map[string]int{"two": 1}, countAnswers(t, dialAddr(t, three), 1), "the server of a registration that failed is left alone")
}

func canceled(t *testing.T) context.Context {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	return ctx
}

func dialAddr(t *testing.T, s *testServer) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", s.port), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestRegisterGRPC_StopsServerAfterTimeout(t *testing.T) {
	t.Parallel()
	r, _ := newProcess(t, etcdtest.Prefix(t))
	s := serve(t, "slow")
	s.held = make(chan struct{})
	reg, err := r.RegisterGRPC(withTestTimeout(t), s.Server, s.instance("echo"), discovery.WithDrainDelay(0), discovery.WithStopTimeout(100*time.Millisecond))
	require.NoError(t, err)
	conn := dial(t, "etcd:///echo", r.Resolver())
	failed := make(chan error)
	go func() {
		_, err := call(withTestTimeout(t), conn)
		failed <- err
	}()
	parttest.Eventually(t, func() bool { return s.entered.Load() == 1 })
	done := make(chan struct{})
	go func() { // Stop waits for the handler
		assert.NoError(t, reg.Close())
		close(done)
	}()
	require.Error(t, <-failed)
	close(s.held)
	<-done
}

func TestRegisterGRPC_RollingRestartFailsNoCall(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	const n = 10
	delay := discovery.WithDrainDelay(300 * time.Millisecond)
	r, _ := newProcess(t, dir)
	clients, _ := newProcess(t, dir)
	var regs [n]*discovery.Registration
	start := func(i, round int) {
		s := serve(t, fmt.Sprintf("%d/%d", i, round))
		in := s.instance("echo")
		in.ID = strconv.Itoa(i)
		reg, err := r.RegisterGRPC(withTestTimeout(t), s.Server, in, delay)
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
				ctx, cancel := context.WithTimeout(t.Context(), parttest.Timeout)
				who, err := call(ctx, conn)
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
	for round := range shortOrLong(1, 10) {
		for i := range n {
			require.NoError(t, regs[i].Close())
			start(i, round+1)
		}
	}
	parttest.Eventually(t, func() bool { // all of the last round have work
		for i := range n {
			if _, ok := seen.Load(fmt.Sprintf("%d/%d", i, shortOrLong(1, 10))); !ok {
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

func TestGRPCNaming_ResolversFindEachOthersServers(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	r, p := newProcess(t, dir, discovery.WithGRPCNaming())
	s := serve(t, "one")
	_, err := r.RegisterGRPC(withTestTimeout(t), s.Server, s.instance("echo"))
	require.NoError(t, err)
	b, err := naming.NewBuilder(p.Raw)
	require.NoError(t, err)
	assert.Equal(t, map[string]int{"one": 3}, countAnswers(t, dial(t, "etcd:///"+dir+"echo", b), 3))
	assert.Equal(t, map[string]int{"one": 3}, countAnswers(t, dial(t, "etcd:///echo", r.Resolver()), 3))
}
