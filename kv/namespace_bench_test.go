package kv_test

import (
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/kv"
)

// fakeConstantServer answers at once, with nothing, so that only the client side is measured.
type fakeConstantServer struct {
	pb.KVClient

	get pb.RangeResponse
	put pb.PutResponse
	del pb.DeleteRangeResponse
	txn pb.TxnResponse
}

func (s *fakeConstantServer) Range(context.Context, *pb.RangeRequest, ...grpc.CallOption) (*pb.RangeResponse, error) {
	return &s.get, nil
}

func (s *fakeConstantServer) Put(context.Context, *pb.PutRequest, ...grpc.CallOption) (*pb.PutResponse, error) {
	return &s.put, nil
}

func (s *fakeConstantServer) DeleteRange(context.Context, *pb.DeleteRangeRequest, ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	return &s.del, nil
}

func (s *fakeConstantServer) Txn(context.Context, *pb.TxnRequest, ...grpc.CallOption) (*pb.TxnResponse, error) {
	return &s.txn, nil
}

// The three that are compared do the same to the same absolute key, which is of a usual length.
const (
	benchDir = "production/orders/"
	benchKey = "customers/4711/profile"
)

type variant struct {
	name string
	kv   clientv3.KV
	key  string
}

func variants() []variant {
	direct := clientv3.NewKVFromKVClient(&fakeConstantServer{}, nil)
	return []variant{
		{"client", direct, benchDir + benchKey},
		{"kv.Namespace", kv.Namespace(direct, benchDir), benchKey},
		{"client-namespace", namespace.NewKV(direct, benchDir), benchKey},
	}
}

type operation struct {
	name string
	do   func(ctx context.Context, kv clientv3.KV, key string) error
}

func operations() []operation {
	return []operation{
		{"Get", func(ctx context.Context, kv clientv3.KV, key string) error {
			_, err := kv.Get(ctx, key)
			return err
		}},
		{"GetPrefix", func(ctx context.Context, kv clientv3.KV, key string) error {
			_, err := kv.Get(ctx, key, clientv3.WithPrefix(), clientv3.WithLimit(100))
			return err
		}},
		{"Put", func(ctx context.Context, kv clientv3.KV, key string) error {
			_, err := kv.Put(ctx, key, "value")
			return err
		}},
		{"PutLease", func(ctx context.Context, kv clientv3.KV, key string) error {
			_, err := kv.Put(ctx, key, "value", clientv3.WithLease(7))
			return err
		}},
		{"Delete", func(ctx context.Context, kv clientv3.KV, key string) error {
			_, err := kv.Delete(ctx, key)
			return err
		}},
		{"CAS", func(ctx context.Context, kv clientv3.KV, key string) error {
			_, err := kv.Txn(ctx).
				If(clientv3.Compare(clientv3.ModRevision(key), "=", 42)).
				Then(clientv3.OpPut(key, "value")).
				Else(clientv3.OpGet(key)).
				Commit()
			return err
		}},
	}
}

func BenchmarkNamespace(b *testing.B) {
	for _, op := range operations() {
		for _, c := range variants() {
			b.Run("op="+op.name+"/kv="+c.name, func(b *testing.B) {
				ctx := b.Context()
				b.ReportAllocs()
				for b.Loop() {
					if err := op.do(ctx, c.kv, c.key); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
