package decorate_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/decorate"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

const password = "open sesame"

// quick is a policy that does not make tests wait.
func quick() retry.Policy {
	return retry.Policy{BaseDelay: time.Millisecond, MaxDelay: 5 * time.Millisecond}
}

// hardened makes the configuration of a client such as the library makes it.
func hardened(t *testing.T) func(*clientv3.Config) {
	t.Helper()
	return func(cfg *clientv3.Config) { require.NoError(t, wire.Harden(cfg)) }
}

// install decorates cli and returns its engine.
func install(cli *clientv3.Client, login bool) *retry.Engine {
	e := retry.New(retry.Config{Client: cli, Observed: true, Policy: quick()})
	decorate.Client(cli, e, login)
	return e
}

// installed returns a decorated client of the shared server.
func installed(t *testing.T, opts ...func(*clientv3.Config)) (*clientv3.Client, *retry.Engine) {
	t.Helper()
	cli := etcdtest.Client(t, append([]func(*clientv3.Config){hardened(t)}, opts...)...)
	return cli, install(cli, false)
}

// guarded is a server on which the user "app" has to log in to work below "app/".
func guarded(t *testing.T, flags ...string) *etcdtest.Server {
	t.Helper()
	s := etcdtest.Start(t, etcdtest.WithFlags(append([]string{"--auth-token=simple"}, flags...)...))
	etcdtest.EnableAuth(t, s, etcdtest.User{Name: "app", Password: password, Grants: []etcdtest.Grant{etcdtest.ReadWrite("app/")}})
	return s
}

// lapser returns what ends all tokens of "app", as time would: setting the password anew, to the
// same one.
func lapser(t *testing.T, s *etcdtest.Server) func() {
	t.Helper()
	root := s.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	return func() {
		_, err := root.UserChangePassword(t.Context(), "app", password)
		require.NoError(t, err)
	}
}

// app returns a hardened client that logs in as "app".
func app(t *testing.T, s *etcdtest.Server, opts ...func(*clientv3.Config)) *clientv3.Client {
	t.Helper()
	opts = append([]func(*clientv3.Config){hardened(t), etcdtest.As("app", password)}, opts...)
	return s.Client(t, opts...)
}

// fault makes the next calls of one method fail, and counts all.
type fault struct {
	method string
	sent   bool         // the request is carried out, and only its answer is lost
	left   atomic.Int64 // calls that are to fail
	calls  atomic.Int64
	err    error // nil for a lost connection
}

// failing makes the first n calls of a method such as "KV/Put" fail.
func failing(method string, n int, sent bool) *fault {
	f := &fault{method: method, sent: sent}
	f.left.Store(int64(n))
	return f
}

// Option puts the fault below everything that a client does.
func (f *fault) Option(cfg *clientv3.Config) {
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(f.unary), grpc.WithChainStreamInterceptor(f.stream))
}

func (f *fault) hit(method string) bool {
	if !strings.HasSuffix(method, "."+f.method) {
		return false
	}
	f.calls.Add(1)
	return f.left.Add(-1) >= 0
}

func (f *fault) failure() error {
	if f.err != nil {
		return f.err
	}
	return status.Error(codes.Unavailable, "error reading from server: EOF")
}

func (f *fault) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	hit := f.hit(method)
	if hit && !f.sent {
		return f.failure()
	}
	err := invoke(ctx, method, req, reply, cc, opts...)
	if hit && err == nil {
		return f.failure()
	}
	return err
}

func (f *fault) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if f.hit(method) {
		return nil, f.failure()
	}
	return open(ctx, desc, cc, method, opts...)
}
