package kv

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Namespace returns a KV that is restricted to the keys below dir. It adds dir to every key that it
// sends, and removes it from every key that it receives.
//
// No request reaches keys outside the namespace. "app" means "app/", so "app2/x" is outside. A
// range is cut off at the end of the namespace, also with WithFromKey, and with WithPrefix on the
// empty key. Comparisons and the operations of transactions, including nested ones, are mapped in
// the same way. An empty key, a range that ends before it begins, and the zero Op return
// [ErrInvalid], and nothing is sent; for a transaction, Commit returns the error. The error for an
// empty key also matches rpctypes.ErrEmptyKey, as in client/v3. A response with a key from outside
// the namespace is an error. The library's own keys below dir are ordinary keys here. Compact has
// no keys and passes through.
//
// dir need not end in a slash. If dir is "", the namespace is the whole key space. If dir is
// invalid, every call returns [ErrInvalid]. The Ops and Cmps passed in are not modified. next must
// return a new response from each call, as client/v3 does, because keys are trimmed in place.
func Namespace(next clientv3.KV, dir string) clientv3.KV {
	m := newKeyMapper(dir)
	if m.err == nil && next == nil {
		m.err = fmt.Errorf("%w: no KV for the namespace", errs.Invalid)
	}
	return &namespacedKV{KV: next, keyMapper: m}
}

// namespacedKV is the KV of a namespace. It is immutable.
type namespacedKV struct {
	clientv3.KV
	keyMapper
}

// Base returns the same namespace over a KV that does not retry, so that callers that retry do not
// retry twice.
func (n *namespacedKV) Base() clientv3.KV {
	if b, ok := n.KV.(wire.Based); ok {
		return &namespacedKV{KV: b.Base(), keyMapper: n.keyMapper}
	}
	return n
}

// RetryEngine returns the engine of next, so that a Store over the namespace shares its budget.
func (n *namespacedKV) RetryEngine() *retry.Engine { return engineOf(n.KV) }

// engineOf returns the retry engine of a KV, or nil if it has none.
func engineOf(kv clientv3.KV) *retry.Engine {
	if s, ok := kv.(retry.EngineProvider); ok {
		return s.RetryEngine()
	}
	return nil
}

// Get gets keys below the namespace.
func (n *namespacedKV) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := n.Do(ctx, clientv3.OpGet(key, opts...))
	return resp.Get(), err
}

// Put writes a key below the namespace.
func (n *namespacedKV) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	resp, err := n.Do(ctx, clientv3.OpPut(key, val, opts...))
	return resp.Put(), err
}

// Delete deletes keys below the namespace.
func (n *namespacedKV) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	resp, err := n.Do(ctx, clientv3.OpDelete(key, opts...))
	return resp.Del(), err
}

// Do sends one operation on keys below the namespace.
func (n *namespacedKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	abs, err := n.absoluteOp(op)
	if err != nil {
		return clientv3.OpResponse{}, opError(verb(op), string(op.KeyBytes()), err)
	}
	resp, err := n.KV.Do(ctx, abs)
	if err != nil {
		return clientv3.OpResponse{}, err
	}
	switch {
	case op.IsGet():
		err = n.trimGet(resp.Get())
	case op.IsPut():
		err = n.trimPut(resp.Put())
	case op.IsDelete():
		err = n.trimDelete(resp.Del())
	default:
		err = n.trimTxn(resp.Txn())
	}
	if err != nil {
		return clientv3.OpResponse{}, badResponse(verb(op), string(op.KeyBytes()), err)
	}
	return resp, nil
}

// Txn returns a transaction below the namespace. If an argument cannot be mapped, Commit returns
// the error and nothing is sent.
func (n *namespacedKV) Txn(ctx context.Context) clientv3.Txn {
	t := &namespacedTxn{keyMapper: n.keyMapper}
	if n.err != nil {
		t.err = opError("txn", "", n.err)
		return t
	}
	t.Txn = n.KV.Txn(ctx)
	return t
}

// Compact passes through, unless the namespace is invalid.
func (n *namespacedKV) Compact(ctx context.Context, rev int64, opts ...clientv3.CompactOption) (*clientv3.CompactResponse, error) {
	if n.err != nil {
		return nil, opError("compact", "", n.err)
	}
	return n.KV.Compact(ctx, rev, opts...)
}

// namespacedTxn is a transaction below a namespace.
type namespacedTxn struct {
	clientv3.Txn
	keyMapper

	err error // the error of the first invalid argument, which Commit returns
}

// If adds comparisons.
func (t *namespacedTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	if t.err != nil {
		return t
	}
	abs, err := t.absoluteCmps(cs)
	if err != nil {
		t.err = opError("txn", "", err)
		return t
	}
	t.Txn = t.Txn.If(abs...)
	return t
}

// Then adds the operations for the case that the comparisons hold.
func (t *namespacedTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	if t.err != nil {
		return t
	}
	abs, err := t.absoluteOps(ops)
	if err != nil {
		t.err = opError("txn", "", err)
		return t
	}
	t.Txn = t.Txn.Then(abs...)
	return t
}

// Else adds the operations for the case that they do not hold.
func (t *namespacedTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	if t.err != nil {
		return t
	}
	abs, err := t.absoluteOps(ops)
	if err != nil {
		t.err = opError("txn", "", err)
		return t
	}
	t.Txn = t.Txn.Else(abs...)
	return t
}

// Commit sends the transaction.
func (t *namespacedTxn) Commit() (*clientv3.TxnResponse, error) {
	if t.err != nil {
		return nil, t.err
	}
	resp, err := t.Txn.Commit()
	if err != nil {
		return nil, err
	}
	if err := t.trimTxn(resp); err != nil {
		return nil, badResponse("txn", "", err)
	}
	return resp, nil
}

// verb returns the name of an operation for error texts.
func verb(op clientv3.Op) string {
	switch {
	case op.IsGet():
		return "get"
	case op.IsPut():
		return "put"
	case op.IsDelete():
		return "delete"
	case op.IsTxn():
		return "txn"
	}
	return "do"
}

// GetStream reads keys below the namespace in chunks. The reader may stop once ctx has ended,
// whereas the stream of client/v3 must always be read to its end. A stream that ctx cut short
// always ends with an error, which replaces a chunk that was not read yet.
func (n *namespacedKV) GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	op, err := n.absoluteOp(clientv3.OpGet(key, opts...))
	if err != nil {
		return nil, opError("get stream", key, err)
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
		var err error
		if chunk.Err() == nil {
			err = n.trimGet((*clientv3.GetResponse)(chunk.RangeResponse))
		}
		if err != nil {
			stop()
			drain(in)
			sendLast(out, errorChunk(ctx, badResponse("get stream", key, err)))
			return
		}
		select {
		case out <- chunk:
		case <-ctx.Done():
			if last := drain(in); last.Err() != nil {
				chunk = last
			}
			if chunk.Err() == nil {
				chunk = errorChunk(ctx, ctx.Err())
			}
			sendLast(out, chunk)
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

// sendLast sends the last chunk of a stream, in place of an unread one. out has one sender, so
// replace does not block.
func sendLast(out chan clientv3.RangeStreamResponse, end clientv3.RangeStreamResponse) {
	select {
	case <-out:
	default:
	}
	out <- end
}

// errorChunk returns a chunk that ends a stream with err. Only client/v3 can create one, from a
// stream that fails.
func errorChunk(ctx context.Context, err error) clientv3.RangeStreamResponse {
	stream, _ := clientv3.NewKVFromKVClient(failingClient{err: err}, nil).GetStream(ctx, "\x00")
	return <-stream
}

type failingClient struct {
	pb.KVClient

	err error
}

// RangeStream returns a stream that fails.
func (c failingClient) RangeStream(context.Context, *pb.RangeRequest, ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	return failingStream{err: c.err}, nil
}

type failingStream struct {
	grpc.ClientStream

	err error
}

// Recv returns the error of the stream.
func (s failingStream) Recv() (*pb.RangeStreamResponse, error) { return nil, s.err }
