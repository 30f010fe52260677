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

// explainTimeout bounds Explain should the connection be made while it looks.
const explainTimeout = 10 * time.Millisecond

// Explain says why the connection of cli is not there: the endpoints, and the error of the last attempt to connect. It
// returns nil when there is a connection, and does not wait for one.
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
		// gRPC keeps the error of the last attempt to connect, and gives it to calls that do not wait for a connection.
		ctx, stop := context.WithTimeout(cli.Ctx(), explainTimeout) // a connection may be made at this very moment
		defer stop()
		if cause = Probe(ctx, conn); cause == nil {
			return nil
		}
	case connectivity.Idle, connectivity.Connecting:
	}
	return errors.New("endpoints " + strings.Join(cli.Endpoints(), ", ") + ": " + cause.Error())
}

// ExplainTimeout is [Explain] for a request that was not answered in time. If there is a connection, it names the endpoints in
// use and peer, the address of the member that was asked, unless that is "". The member may be evicted by now.
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

// Probe asks the server at the other end of conn whether it serves. It does not wait for a connection that cannot be
// made: the error then holds the reason, such as a refused connection or a certificate that is not trusted.
// Servers answer it without authentication.
func Probe(ctx context.Context, conn *grpc.ClientConn) error {
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(false))
	switch {
	case err == nil && answer.GetStatus() == healthpb.HealthCheckResponse_SERVING:
		return nil
	case err == nil:
		return errors.New("the server says " + answer.GetStatus().String())
	case status.Code(err) == codes.Unimplemented:
		return nil // something answered, and it speaks gRPC
	}
	return Plain(err)
}

// Plain is err without the wrapping words of gRPC around the reason.
func Plain(err error) error {
	s, ok := status.FromError(err)
	if !ok || s.Code() == codes.OK {
		return err
	}
	text := s.Message()
	for _, words := range []string{"connection error: desc = ", "transport: Error while dialing: ", "transport: authentication handshake failed: "} {
		if _, rest, found := strings.Cut(text, words); found {
			text = strings.Trim(rest, `"`)
		}
	}
	return errors.New(text)
}
