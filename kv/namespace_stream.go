package kv

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// GetStream retrieves keys below the namespace in chunks. Unlike that of client/v3, whose reader has to read to the end
// in any case, the stream leaves nothing behind once ctx has ended; a stream that was cut short by that always says so
// with an error, in place of the chunk that was not read yet.
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
	// The caller's options see the absolute key here, so the last option sets the range that they make of the relative one.
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

// drain reads a stream that was stopped to its end, which lets its goroutine go, and returns the last of it.
func drain(in clientv3.GetStreamChan) (last clientv3.RangeStreamResponse) {
	for chunk := range in {
		last = chunk
	}
	return last
}

// replace puts the end of a stream into its channel, in the place of what nobody has read. There is one sender, so it
// does not block.
func replace(out chan clientv3.RangeStreamResponse, end clientv3.RangeStreamResponse) {
	select {
	case <-out:
	default:
	}
	out <- end
}

// broken is the chunk that ends a stream with err. Only client/v3 can make one, so it is given a stream that fails.
func broken(ctx context.Context, err error) clientv3.RangeStreamResponse {
	stream, _ := clientv3.NewKVFromKVClient(brokenClient{err: err}, nil).GetStream(ctx, "\x00")
	return <-stream
}

type brokenClient struct {
	pb.KVClient

	err error
}

// RangeStream opens a stream that fails.
func (c brokenClient) RangeStream(context.Context, *pb.RangeRequest, ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	return brokenStream{err: c.err}, nil
}

type brokenStream struct {
	grpc.ClientStream

	err error
}

// Recv fails.
func (s brokenStream) Recv() (*pb.RangeStreamResponse, error) { return nil, s.err }
