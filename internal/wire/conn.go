package wire

import (
	"context"
	"errors"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// explainTimeout bounds Explain if the connection is established while it runs.
const explainTimeout = 10 * time.Millisecond

// Explain returns why cli has no connection: the endpoints, and the error of the last attempt to
// connect. It returns nil if there is a connection. It does not wait for one.
func Explain(cli *clientv3.Client) error {
	conn := cli.ActiveConnection()
	if conn == nil {
		return nil
	}
	cause := errors.New("no connection yet")
	switch conn.GetState() {
	case connectivity.Ready, connectivity.Shutdown:
		return nil
	case connectivity.TransientFailure:
		// gRPC keeps the error of the last attempt to connect and returns it to calls that do not
		// wait for a connection.
		ctx, cancel := context.WithTimeout(cli.Ctx(), explainTimeout)
		defer cancel()
		err := Probe(ctx, conn)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil { // otherwise it is connecting once more, or the client is closed
			cause = err
		}
	case connectivity.Idle, connectivity.Connecting:
	}
	return errors.New("endpoints " + strings.Join(cli.Endpoints(), ", ") + ": " + cause.Error())
}

// ExplainTimeout is like [Explain] for a request that was not answered in time. If there is a
// connection, the error contains the endpoints in use and peer, the address of the member that the
// request was sent to, unless that is "". The member may have been evicted since.
func ExplainTimeout(cli *clientv3.Client, peer string) error {
	if err := Explain(cli); err != nil {
		return err
	}
	if len(cli.Endpoints()) == 0 {
		return errors.New("no endpoints are known")
	}
	text := "endpoints " + strings.Join(cli.Endpoints(), ", ")
	if peer != "" {
		text += ": no answer from " + peer
	}
	return errors.New(text)
}

// Probe makes a health check over conn, which requires no authentication. It does not wait for a
// connection that cannot be established: the error then contains the cause, such as a refused
// connection or an untrusted certificate.
func Probe(ctx context.Context, conn *grpc.ClientConn) error {
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(false))
	switch {
	case err == nil && resp.GetStatus() == healthpb.HealthCheckResponse_SERVING:
		return nil
	case err == nil:
		return errors.New("the server reports " + resp.GetStatus().String())
	case status.Code(err) == codes.Unimplemented:
		return nil // a gRPC server without health checks has answered
	}
	return Plain(err)
}

// Plain returns err without the prefixes that gRPC adds to the cause.
func Plain(err error) error {
	s, ok := status.FromError(err)
	if !ok || s.Code() == codes.OK {
		return err
	}
	text := s.Message()
	for _, prefix := range []string{"connection error: desc = ", "transport: Error while dialing: ", "transport: authentication handshake failed: "} {
		if _, rest, found := strings.Cut(text, prefix); found {
			text = strings.Trim(rest, `"`)
		}
	}
	return errors.New(text)
}
