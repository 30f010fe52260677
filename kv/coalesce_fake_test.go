package kv_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/etcdkit/etcdkit/kv"
)

// fakeKVServer is an etcd of single keys, in memory, that a test can hold up and let fail. Calls
// for keys that begin with "jam" wait until the jam is cleared.
type fakeKVServer struct {
	pb.KVClient

	cleared chan struct{}
	before  func(ctx context.Context, m proto.Message) error // may hold a request up, or refuse it
	// after may lose the response to a request that was applied.
	after func(m proto.Message) error

	mu   sync.Mutex
	kvs  map[string]*mvccpb.KeyValue
	rev  int64
	asks []proto.Message
	ctxs []context.Context
}

// bubble runs a test over a sketch, in a bubble.
func bubble(t *testing.T, f func(t *testing.T, s *fakeKVServer, k clientv3.KV)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &fakeKVServer{kvs: map[string]*mvccpb.KeyValue{}, rev: 1, cleared: make(chan struct{})}
		f(t, s, kv.Coalesce(clientv3.NewKVFromKVClient(s, nil)))
	})
}

func (s *fakeKVServer) Range(ctx context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	r, err := s.serve(ctx, in, string(in.Key), func() *pb.ResponseOp { return s.get(in) })
	return r.GetResponseRange(), err
}

func (s *fakeKVServer) Put(ctx context.Context, in *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	r, err := s.serve(ctx, in, string(in.Key), func() *pb.ResponseOp { s.rev++; return s.put(in) })
	return r.GetResponsePut(), err
}

func (s *fakeKVServer) DeleteRange(ctx context.Context, in *pb.DeleteRangeRequest, _ ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	r, err := s.serve(ctx, in, string(in.Key), func() *pb.ResponseOp { s.rev++; return s.del(in) })
	return r.GetResponseDeleteRange(), err
}

func (s *fakeKVServer) Txn(ctx context.Context, in *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	r, err := s.serve(ctx, in, "", func() *pb.ResponseOp { return s.txn(in) })
	if err == nil && r.GetResponseTxn() == nil {
		err = rpctypes.ErrGRPCDuplicateKey
	}
	return r.GetResponseTxn(), err
}

// serve notes a request, and carries it out if nothing is in its way.
func (s *fakeKVServer) serve(ctx context.Context, in proto.Message, key string, do func() *pb.ResponseOp) (*pb.ResponseOp, error) {
	s.mu.Lock()
	s.asks, s.ctxs = append(s.asks, proto.Clone(in)), append(s.ctxs, ctx)
	s.mu.Unlock()
	if strings.HasPrefix(key, "jam") {
		select {
		case <-s.cleared:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	} else if s.before != nil {
		if err := s.before(ctx, in); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	r := do()
	s.mu.Unlock()
	if s.after != nil {
		if err := s.after(in); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (s *fakeKVServer) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 1, MemberId: 2, Revision: s.rev, RaftTerm: 3}
}

func (s *fakeKVServer) get(in *pb.RangeRequest) *pb.ResponseOp {
	out := &pb.RangeResponse{Header: s.header()}
	if one := s.kvs[string(in.Key)]; one != nil {
		out.Kvs, out.Count = []*mvccpb.KeyValue{proto.CloneOf(one)}, 1
	}
	return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: out}}
}

func (s *fakeKVServer) put(in *pb.PutRequest) *pb.ResponseOp {
	one := &mvccpb.KeyValue{Key: in.Key, Value: in.Value, CreateRevision: s.rev, ModRevision: s.rev, Version: 1}
	out := &pb.PutResponse{Header: s.header()}
	if old := s.kvs[string(in.Key)]; old != nil {
		one.CreateRevision, one.Version = old.CreateRevision, old.Version+1
		if in.PrevKv {
			out.PrevKv = old
		}
	}
	s.kvs[string(in.Key)] = proto.CloneOf(one)
	return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: out}}
}

func (s *fakeKVServer) del(in *pb.DeleteRangeRequest) *pb.ResponseOp {
	out := &pb.DeleteRangeResponse{Header: s.header()}
	if old := s.kvs[string(in.Key)]; old != nil {
		out.Deleted = 1
		delete(s.kvs, string(in.Key))
	}
	return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: out}}
}

// txn refuses two writes of a key, as etcd does.
func (s *fakeKVServer) txn(in *pb.TxnRequest) *pb.ResponseOp {
	out := &pb.TxnResponse{Succeeded: true}
	puts := map[string]bool{}
	for _, op := range in.Success {
		if key := string(op.GetRequestPut().GetKey()); key != "" && puts[key] {
			return nil
		} else if key != "" {
			puts[key] = true
		}
	}
	s.rev++
	for _, op := range in.Success {
		var r *pb.ResponseOp
		switch op := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			r = s.get(op.RequestRange)
		case *pb.RequestOp_RequestPut:
			r = s.put(op.RequestPut)
		case *pb.RequestOp_RequestDeleteRange:
			r = s.del(op.RequestDeleteRange)
		}
		out.Responses = append(out.Responses, r)
	}
	out.Header = s.header()
	return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: out}}
}

// asked returns the number of operations of each transaction since blockDirectCalls, and 0 for each
// request of another kind.
func (s *fakeKVServer) asked() (sizes []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.asks {
		switch m := m.(type) {
		case *pb.TxnRequest:
			sizes = append(sizes, len(m.Success))
		case interface{ GetKey() []byte }:
			if !strings.HasPrefix(string(m.GetKey()), "jam") {
				sizes = append(sizes, 0)
			}
		}
	}
	return sizes
}

// lastCtx is the context of the last request.
func (s *fakeKVServer) lastCtx() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctxs[len(s.ctxs)-1]
}

// value is what is stored, and how often it was written.
func (s *fakeKVServer) value(key string) (value string, version int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.kvs[key].GetValue()), s.kvs[key].GetVersion()
}

// callResult is what came of a call.
type callResult struct {
	clientv3.OpResponse

	err error
}

// asyncDo makes a call, and returns once it waits for something.
func asyncDo(ctx context.Context, k clientv3.KV, op clientv3.Op) <-chan callResult {
	out := make(chan callResult, 1)
	go func() {
		r, err := k.Do(ctx, op)
		out <- callResult{r, err}
	}()
	synctest.Wait()
	return out
}

// blockDirectCalls makes as many calls of a kind as go by themselves: until the jam is cleared,
// further ones wait for each other.
func blockDirectCalls(t *testing.T, s *fakeKVServer, k clientv3.KV, op func(key string) clientv3.Op) (clearUp func()) {
	t.Helper()
	var calls []<-chan callResult
	for i := range kv.MaxDirectCalls {
		calls = append(calls, asyncDo(t.Context(), k, op("jam"+strconv.Itoa(i))))
	}
	return func() {
		close(s.cleared)
		synctest.Wait()
		for _, c := range calls {
			assert.NoError(t, (<-c).err)
		}
	}
}

func getOf(key string) clientv3.Op { return clientv3.OpGet(key) }
func putOf(key string) clientv3.Op { return clientv3.OpPut(key, "value of "+key) }
func delOf(key string) clientv3.Op { return clientv3.OpDelete(key) }
