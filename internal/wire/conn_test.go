package wire_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
)

func TestExplain_ReturnsNilIfConnected(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t)
	require.NoError(t, wire.Probe(t.Context(), cli.ActiveConnection()))
	require.Eventually(t, func() bool { return wire.Explain(cli) == nil }, 10*time.Second, time.Millisecond, "gRPC says so a moment later")
	require.EqualError(t, wire.ExplainTimeout(cli, ""), "endpoints "+strings.Join(cli.Endpoints(), ", "))
	require.EqualError(t, wire.ExplainTimeout(cli, "10.0.0.1:2379"), "endpoints "+strings.Join(cli.Endpoints(), ", ")+": no answer from 10.0.0.1:2379")
	require.NoError(t, cli.Close())
	require.NoError(t, wire.Explain(cli), "closed client")
	require.NoError(t, wire.Explain(clientv3.NewCtxClient(t.Context())), "client without a connection")
	require.EqualError(t, wire.ExplainTimeout(clientv3.NewCtxClient(t.Context()), ""), "no endpoints are known")
}

func TestExplain_NamesRefusedConnection(t *testing.T) {
	t.Parallel()
	cli := etcdtest.NewClient(t, []string{"127.0.0.1:1", "127.0.0.1:2"})
	require.EqualError(t, wire.Explain(cli), "endpoints 127.0.0.1:1, 127.0.0.1:2: no connection yet")
	require.ErrorContains(t, wire.Probe(t.Context(), cli.ActiveConnection()), "connection refused")
	awaitTransientFailure(t, cli)
	err := wire.Explain(cli)
	require.ErrorContains(t, err, "endpoints 127.0.0.1:1, 127.0.0.1:2: ")
	assert.ErrorContains(t, err, "connection refused")
	assert.NotContains(t, err.Error(), "desc =")
}

// The server accepts connections but sends nothing, so the attempt to connect does not end.
func TestExplain_DoesNotWaitForAConnection(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	cli := etcdtest.NewClient(t, []string{l.Addr().String()})
	began := time.Now()
	const looks = 100
	for range looks {
		require.ErrorContains(t, wire.Explain(cli), "no connection yet")
	}
	assert.Less(t, time.Since(began)/looks, 50*time.Millisecond)
}

func TestExplain_NamesUntrustedCertificate(t *testing.T) {
	t.Parallel()
	pki := etcdtest.Certs(t)
	other := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	pem, err := os.ReadFile(pki.OtherCAFile)
	require.NoError(t, err)
	require.True(t, other.RootCAs.AppendCertsFromPEM(pem))
	s := etcdtest.Start(t, etcdtest.WithTLS(pki.TLS(pki.Server)))
	cli := s.Client(t, func(cfg *clientv3.Config) { cfg.TLS = other })
	err = wire.Probe(t.Context(), cli.ActiveConnection())
	require.ErrorContains(t, err, "x509: certificate signed by unknown authority")
	assert.NotContains(t, err.Error(), "desc =")
	awaitTransientFailure(t, cli)
	require.ErrorContains(t, wire.Explain(cli), "x509: certificate signed by unknown authority")
}

// gRPC fails calls a moment before it changes the state of the connection.
func awaitTransientFailure(t *testing.T, cli *clientv3.Client) {
	t.Helper()
	require.Eventually(t, func() bool {
		return cli.ActiveConnection().GetState() == connectivity.TransientFailure
	}, 10*time.Second, time.Millisecond)
}

func TestProbe_ReturnsStatusOfServerThatDoesNotServe(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv, state := grpc.NewServer(), health.NewServer()
	state.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(srv, state)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	defer wg.Wait()
	defer srv.Stop()
	cli := etcdtest.NewClient(t, []string{l.Addr().String()})
	assert.EqualError(t, wire.Probe(t.Context(), cli.ActiveConnection()), "the server reports NOT_SERVING")
}

func TestPlain_RemovesPrefixesOfGRPC(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`: "dial tcp 127.0.0.1:1: connect: connection refused",
		`connection error: desc = "transport: authentication handshake failed: tls: no certificate"`:                   "tls: no certificate",
		`last connection error: connection error: desc = "error reading server preface: EOF"`:                          "error reading server preface: EOF",
		`something "else"`: `something "else"`,
	} {
		assert.EqualError(t, wire.Plain(status.Error(codes.Unavailable, text)), want)
	}
	plain := errors.New("boom")
	assert.Equal(t, plain, wire.Plain(plain))
	assert.NoError(t, wire.Plain(nil))
}
