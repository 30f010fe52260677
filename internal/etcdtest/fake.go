package etcdtest

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// FakeKV is a server of etcd's KV service whose responses a test determines: those of a proxy in
// front of etcd, or of etcd in circumstances that cannot be brought about.
type FakeKV struct {
	pb.UnimplementedKVServer

	respond  func(n int) error
	calls    atomic.Int64
	endpoint string
}

// StartFakeKV starts one on a free port of the loopback. respond returns the error of the n-th call
// of any method, from 1; nil is a success at revision n.
func StartFakeKV(tb testing.TB, respond func(n int) error) *FakeKV {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	must(tb, err)
	f := &FakeKV{respond: respond, endpoint: l.Addr().String()}
	srv := grpc.NewServer()
	pb.RegisterKVServer(srv, f)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	tb.Cleanup(func() {
		srv.Stop()
		<-done
	})
	return f
}

// Client returns a client of the server, closed at the end of the test.
func (f *FakeKV) Client(tb testing.TB, opts ...func(*clientv3.Config)) *clientv3.Client {
	tb.Helper()
	return newClient(tb, clientv3.Config{Endpoints: []string{f.endpoint}}, opts...)
}

// Calls is how many requests have arrived.
func (f *FakeKV) Calls() int { return int(f.calls.Load()) }

func (f *FakeKV) next() (*pb.ResponseHeader, error) {
	n := f.calls.Add(1)
	return &pb.ResponseHeader{Revision: n}, f.respond(int(n))
}

// Range answers with no keys.
func (f *FakeKV) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	h, err := f.next()
	return &pb.RangeResponse{Header: h}, err
}

// Put answers.
func (f *FakeKV) Put(context.Context, *pb.PutRequest) (*pb.PutResponse, error) {
	h, err := f.next()
	return &pb.PutResponse{Header: h}, err
}

// DeleteRange answers that one key is gone.
func (f *FakeKV) DeleteRange(context.Context, *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	h, err := f.next()
	return &pb.DeleteRangeResponse{Header: h, Deleted: 1}, err
}

// Txn answers that the compares held.
func (f *FakeKV) Txn(context.Context, *pb.TxnRequest) (*pb.TxnResponse, error) {
	h, err := f.next()
	return &pb.TxnResponse{Header: h, Succeeded: true}, err
}
