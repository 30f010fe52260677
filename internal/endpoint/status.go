package endpoint

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// statusTimeout bounds the status call to a single member.
const statusTimeout = 2 * time.Second

// StatusResult is the status of the member at an endpoint, or the error of the call.
type StatusResult struct {
	Endpoint string
	Status   *pb.StatusResponse
	Members  []*pb.Member // the list of members, as this member knows it
	Latency  time.Duration
	TLS      *credentials.TLSInfo // nil without TLS
	Err      error
}

// QueryAll fetches the status and the list of members from all endpoints concurrently. It takes at
// most 2 s.
func (p *Pool) QueryAll(ctx context.Context, eps []string) []StatusResult {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	out := make([]StatusResult, len(eps))
	var wg sync.WaitGroup
	for i, ep := range eps {
		wg.Go(func() { out[i] = p.queryEndpoint(ctx, ep) })
	}
	wg.Wait()
	return out
}

// queryEndpoint fetches the status and the list of members from one endpoint.
func (p *Pool) queryEndpoint(ctx context.Context, ep string) StatusResult {
	r := StatusResult{Endpoint: ep}
	r.Err = p.Do(ctx, ep, func(conn *grpc.ClientConn) error { return fetchStatus(ctx, conn, &r) })
	return r
}

// fetchStatus fills in r with the responses received over conn.
func fetchStatus(ctx context.Context, conn *grpc.ClientConn, r *StatusResult) error {
	start := time.Now()
	var p peer.Peer
	s, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{}, grpc.Peer(&p))
	r.Latency = time.Since(start)
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		r.TLS = &info
	}
	if err != nil {
		return err
	}
	r.Status = s
	if list, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{}); err == nil {
		r.Members = list.GetMembers() // optional: without a list the status identifies the member
	}
	return nil
}

// Cause returns why the endpoint did not answer, for people.
func (r StatusResult) Cause() error {
	if status.Code(r.Err) == codes.DeadlineExceeded {
		return errors.New("no answer within " + statusTimeout.String())
	}
	return wire.Plain(r.Err)
}

// IsUnauthenticated reports whether etcd did not accept the user.
func (r StatusResult) IsUnauthenticated() bool {
	if r.Err == nil {
		return false
	}
	_, condition := retry.Classify(r.Err, false)
	return errors.Is(condition, errs.Unauthenticated)
}
