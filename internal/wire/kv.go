package wire

import (
	"context"
	"reflect"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Based is a decorator that retries by itself; the packages of etcdkit work on what is below it, so that nothing is
// retried twice.
type Based interface{ Base() clientv3.KV }

// KV returns the KV of cli to send requests with, and whether every unary call through it passes an observer.
//
// It is cli.KV as it stands where the user has put something of his own there. Client/v3's own KV is used as it is on a
// hardened client; on a plain one it is replaced by an equal one that observes every write and sends it once.
func KV(cli *clientv3.Client) (kv clientv3.KV, observed bool) {
	kv = cli.KV
	if b, ok := kv.(Based); ok {
		kv = b.Base()
	}
	if cli.ActiveConnection() == nil || !official(kv) {
		return kv, false
	}
	if Hardened(cli) {
		return kv, true
	}
	return clientv3.NewKVFromKVClient(&sentProbe{KVClient: clientv3.RetryKVClient(cli)}, cli), true
}

// official reports whether kv is the one that client/v3 makes for a connection: by its type, and by that of the stub
// below it, since anybody can make one over a stub of his own.
func official(kv clientv3.KV) bool {
	v := reflect.ValueOf(kv)
	if !v.IsValid() || v.Type() != reflect.TypeOf(clientv3.NewKVFromKVClient(nil, nil)) || v.IsNil() {
		return false
	}
	remote := v.Elem().FieldByName("remote")
	if !remote.IsValid() || remote.Kind() != reflect.Interface || remote.IsNil() {
		return false
	}
	return remote.Elem().Type() == reflect.TypeOf(clientv3.RetryKVClient(&clientv3.Client{}))
}

// sentProbe observes each write through options of the single call.
type sentProbe struct{ pb.KVClient }

// Put sends one put.
func (c *sentProbe) Put(ctx context.Context, in *pb.PutRequest, opts ...grpc.CallOption) (*pb.PutResponse, error) {
	return probed(ctx, in, opts, c.KVClient.Put)
}

// DeleteRange sends one delete.
func (c *sentProbe) DeleteRange(ctx context.Context, in *pb.DeleteRangeRequest, opts ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	return probed(ctx, in, opts, c.KVClient.DeleteRange)
}

// Txn sends one transaction.
func (c *sentProbe) Txn(ctx context.Context, in *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	return probed(ctx, in, opts, c.KVClient.Txn)
}

// Range reads; client/v3 may well send it again.
func (c *sentProbe) Range(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	Sent(ctx) // as far as anybody knows
	if !serializable(in) {
		ctx = clientv3.WithRequireLeader(ctx)
	}
	return c.KVClient.Range(ctx, in, opts...)
}

// RangeStream reads in chunks.
func (c *sentProbe) RangeStream(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	Sent(ctx) // as far as anybody knows
	return c.KVClient.RangeStream(clientv3.WithRequireLeader(ctx), in, opts...)
}

// Compact drops history.
func (c *sentProbe) Compact(ctx context.Context, in *pb.CompactionRequest, opts ...grpc.CallOption) (*pb.CompactionResponse, error) {
	return probed(ctx, in, opts, c.KVClient.Compact)
}

// probed makes one call. Its context ends with the first answer after which client/v3 would send the
// request again.
func probed[Q, R any](ctx context.Context, in Q, opts []grpc.CallOption, call func(context.Context, Q, ...grpc.CallOption) (R, error)) (R, error) {
	if !serializable(in) {
		ctx = clientv3.WithRequireLeader(ctx)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	a := attemptOf(ctx)
	opts = append(slices.Clip(opts), grpc.OnFinish(func(err error) {
		if c := status.Code(err); c == codes.Canceled || c == codes.DeadlineExceeded {
			stop()
		}
	}))
	if a != nil {
		opts = observeSent(a, opts)
	}
	return call(ctx, in, opts...)
}
