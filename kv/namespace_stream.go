package kv

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// GetStream reads keys below the namespace in chunks. The reader may stop once ctx has ended,
// whereas the stream of client/v3 must always be read to its end. A stream that ctx cut short
// always ends with an error, which replaces a chunk that was not read yet.
func (n *namespacedKV) GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	op, err := n.absoluteOp(clientv3.OpGet(key, opts...))
	if err != nil {
		return nil, fail("get stream", key, err)
	}
	setRange := func(o *clientv3.Op) {
		o.WithKeyBytes(op.KeyBytes())
		o.WithRangeBytes(op.RangeBytes())
	}
	ctx, stop := context.WithCancel(ctx)
	// The caller's options are applied to the absolute key. The last option therefore sets the
	// range that they produced for the relative key.
	in, err := n.KV.GetStream(ctx, string(op.KeyBytes()), append(slices.Clip(opts), setRange)...)
	if err != nil || in == nil {
		stop()
		return nil, err
	}
	out := make(chan clientv3.RangeStreamResponse, 1)
	go n.relay(ctx, stop, key, in, out)
	return out, nil
}

// relay passes chunks on until the stream or ctx ends.
func (n *namespacedKV) relay(ctx context.Context, stop context.CancelFunc, key string, in clientv3.GetStreamChan, out chan clientv3.RangeStreamResponse) {
	defer close(out)
	defer stop()
	for chunk := range in {
		var bad error
		if chunk.Err() == nil {
			bad = n.trimGet((*clientv3.GetResponse)(chunk.RangeResponse))
		}
		if bad != nil {
			stop()
			drain(in)
			replace(out, broken(ctx, badResponse("get stream", key, bad)))
			return
		}
		select {
		case out <- chunk:
		case <-ctx.Done():
			if last := drain(in); last.Err() != nil {
				chunk = last
			}
			if chunk.Err() == nil {
				chunk = broken(ctx, ctx.Err())
			}
			replace(out, chunk)
			return
		}
	}
}

// drain reads a canceled stream to its end, so that its goroutine ends, and returns the last chunk.
func drain(in clientv3.GetStreamChan) (last clientv3.RangeStreamResponse) {
	for chunk := range in {
		last = chunk
	}
	return last
}

// replace sends the last chunk of a stream, in place of an unread one. out has one sender, so
// replace does not block.
func replace(out chan clientv3.RangeStreamResponse, end clientv3.RangeStreamResponse) {
	select {
	case <-out:
	default:
	}
	out <- end
}

// broken returns a chunk that ends a stream with err. Only client/v3 can create one, from a stream
// that fails.
func broken(ctx context.Context, err error) clientv3.RangeStreamResponse {
	stream, _ := clientv3.NewKVFromKVClient(brokenClient{err: err}, nil).GetStream(ctx, "\x00")
	return <-stream
}

type brokenClient struct {
	pb.KVClient

	err error
}

// RangeStream returns a stream that fails.
func (c brokenClient) RangeStream(context.Context, *pb.RangeRequest, ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	return brokenStream{err: c.err}, nil
}

type brokenStream struct {
	grpc.ClientStream

	err error
}

// Recv returns the error of the stream.
func (s brokenStream) Recv() (*pb.RangeStreamResponse, error) { return nil, s.err }
