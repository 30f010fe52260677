package scan_test

import (
	"bytes"
	"context"
	"io"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fakeServer answers reads like an etcd member that holds keys at rev, and fails where it is told
// to. Above it stands client/v3 as it is.
type fakeServer struct {
	pb.KVClient

	keys  []string // sorted
	rev   int64
	chunk int // keys in a chunk of a stream

	// Each is asked before an answer is given, and may be nil.
	onRange  func(*pb.RangeRequest) error
	onStream func(*pb.RangeRequest) error
	onChunk  func(ctx context.Context, sent int, first string) error

	mu      sync.Mutex
	ranges  []*pb.RangeRequest
	streams []*pb.RangeRequest
	open    sync.WaitGroup // streams whose context has not ended
}

func (m *fakeServer) reader() clientv3.KV { return clientv3.NewKVFromKVClient(m, nil) }

// value is what each key holds, so that a lost or foreign value shows.
func value(key string) []byte { return []byte("value of " + key) }

func (m *fakeServer) selected(r *pb.RangeRequest) []*mvccpb.KeyValue {
	var kvs []*mvccpb.KeyValue
	for _, key := range m.keys {
		k := []byte(key)
		in := bytes.Equal(k, r.Key)
		if len(r.RangeEnd) > 0 {
			in = bytes.Compare(k, r.Key) >= 0 && (string(r.RangeEnd) == "\x00" || bytes.Compare(k, r.RangeEnd) < 0)
		}
		if !in {
			continue
		}
		kv := &mvccpb.KeyValue{Key: k, Value: value(key), ModRevision: 1}
		if r.KeysOnly {
			kv.Value = nil
		}
		kvs = append(kvs, kv)
	}
	if r.SortOrder == pb.RangeRequest_DESCEND {
		slices.Reverse(kvs)
	}
	return kvs
}

// Range answers a Get.
func (m *fakeServer) Range(ctx context.Context, r *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ranges = append(m.ranges, r)
	if ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if m.onRange != nil {
		if err := m.onRange(r); err != nil {
			return nil, err
		}
	}
	kvs := m.selected(r)
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: m.rev}, Count: int64(len(kvs))}
	switch {
	case r.CountOnly:
		return resp, nil
	case r.Limit > 0 && int64(len(kvs)) > r.Limit:
		kvs, resp.More = kvs[:r.Limit], true
	}
	resp.Kvs = kvs
	return resp, nil
}

// RangeStream opens a stream.
func (m *fakeServer) RangeStream(ctx context.Context, r *pb.RangeRequest, _ ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.streams = append(m.streams, r)
	if m.onStream != nil {
		if err := m.onStream(r); err != nil {
			return nil, err
		}
	}
	m.open.Add(1)
	context.AfterFunc(ctx, m.open.Done)
	return &fakeStream{member: m, ctx: ctx, rest: m.selected(r)}, nil
}

type fakeStream struct {
	grpc.ClientStream

	member *fakeServer
	ctx    context.Context
	rest   []*mvccpb.KeyValue
	sent   int
	done   bool
}

// Recv gives the next chunk.
func (s *fakeStream) Recv() (*pb.RangeStreamResponse, error) {
	if s.ctx.Err() != nil {
		return nil, status.FromContextError(s.ctx.Err()).Err()
	}
	if s.done {
		return nil, io.EOF
	}
	n := min(s.member.chunk, len(s.rest))
	resp := &pb.RangeResponse{Kvs: s.rest[:n]}
	if s.member.onChunk != nil {
		firstKey := ""
		if n > 0 {
			firstKey = string(s.rest[0].Key)
		}
		if err := s.member.onChunk(s.ctx, s.sent, firstKey); err != nil {
			return nil, err
		}
	}
	s.sent++
	s.rest = s.rest[n:]
	if len(s.rest) == 0 {
		s.done = true
		resp.Header = &pb.ResponseHeader{Revision: s.member.rev}
	}
	return &pb.RangeStreamResponse{RangeResponse: resp}, nil
}

var (
	errUnavailable   = status.Error(codes.Unavailable, "the member is going down")
	errUnimplemented = status.Error(codes.Unimplemented, "unknown method RangeStream")
	errTooLarge      = status.Error(codes.ResourceExhausted, "grpc: received message larger than max (5 vs. 4)")
)

// fakeLateFailureKV breaks each stream where it would end.
type fakeLateFailureKV struct{ member *fakeServer }

func (l *fakeLateFailureKV) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return l.member.reader().Get(ctx, key, opts...)
}

func (l *fakeLateFailureKV) GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	return clientv3.NewKVFromKVClient(&fakeLateFailureClient{l.member}, nil).GetStream(ctx, key, opts...)
}

type fakeLateFailureClient struct{ *fakeServer }

// RangeStream opens a stream that fails after its last chunk.
func (c *fakeLateFailureClient) RangeStream(ctx context.Context, r *pb.RangeRequest, opts ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	s, err := c.fakeServer.RangeStream(ctx, r, opts...)
	return &fakeLateFailureStream{s}, err
}

type fakeLateFailureStream struct{ pb.KV_RangeStreamClient }

// Recv fails instead of ending.
func (s *fakeLateFailureStream) Recv() (*pb.RangeStreamResponse, error) {
	resp, err := s.KV_RangeStreamClient.Recv()
	if err != nil {
		return nil, errUnavailable
	}
	return resp, nil
}
