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

// Based is a decorator that retries by itself. The packages of this module use the KV below it, so
// that no request is retried twice.
type Based interface{ Base() clientv3.KV }

// KV returns the KV to send the requests of cli with, and whether every unary call through it
// passes an observer.
//
// If the user has replaced cli.KV, KV returns it unchanged, and so it does for the KV of client/v3
// in a hardened client. For other clients, it returns an equivalent that observes every write and
// sends it once.
func KV(cli *clientv3.Client) (kv clientv3.KV, observed bool) {
	kv = cli.KV
	if b, ok := kv.(Based); ok {
		kv = b.Base()
	}
	if cli.ActiveConnection() == nil || !isClientKV(kv) {
		return kv, false
	}
	if Hardened(cli) {
		return kv, true
	}
	return clientv3.NewKVFromKVClient(&sentProbe{KVClient: clientv3.RetryKVClient(cli)}, cli), true
}

// isClientKV reports whether kv is the one that client/v3 creates for a connection: by its type,
// and by that of its stub, because clientv3.NewKVFromKVClient accepts any stub.
func isClientKV(kv clientv3.KV) bool {
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

// sentProbe is a stub that observes each write through options of the single call.
type sentProbe struct{ pb.KVClient }

// Put sends one put.
func (c *sentProbe) Put(ctx context.Context, in *pb.PutRequest, opts ...grpc.CallOption) (*pb.PutResponse, error) {
	return observe(ctx, in, opts, c.KVClient.Put)
}

// DeleteRange sends one delete.
func (c *sentProbe) DeleteRange(ctx context.Context, in *pb.DeleteRangeRequest, opts ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	return observe(ctx, in, opts, c.KVClient.DeleteRange)
}

// Txn sends one transaction.
func (c *sentProbe) Txn(ctx context.Context, in *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	return observe(ctx, in, opts, c.KVClient.Txn)
}

// Range makes a read, which client/v3 may repeat.
func (c *sentProbe) Range(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	Sent(ctx) // it is not observed, so it may have been
	if !isSerializable(in) {
		ctx = clientv3.WithRequireLeader(ctx)
	}
	return c.KVClient.Range(ctx, in, opts...)
}

// RangeStream makes a read whose response is a stream.
func (c *sentProbe) RangeStream(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	Sent(ctx) // it is not observed, so it may have been
	return c.KVClient.RangeStream(clientv3.WithRequireLeader(ctx), in, opts...)
}

// Compact compacts the history.
func (c *sentProbe) Compact(ctx context.Context, in *pb.CompactionRequest, opts ...grpc.CallOption) (*pb.CompactionResponse, error) {
	return observe(ctx, in, opts, c.KVClient.Compact)
}

// observe makes one call. It cancels the context of the call after the first error because of which
// client/v3 would repeat it.
func observe[Q, R any](ctx context.Context, in Q, opts []grpc.CallOption, call func(context.Context, Q, ...grpc.CallOption) (R, error)) (R, error) {
	if !isSerializable(in) {
		ctx = clientv3.WithRequireLeader(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := attemptOf(ctx)
	opts = append(slices.Clip(opts), grpc.OnFinish(func(err error) {
		if c := status.Code(err); c == codes.Canceled || c == codes.DeadlineExceeded {
			cancel()
		}
	}))
	if a != nil {
		opts = observeSent(a, opts)
	}
	return call(ctx, in, opts...)
}
