package retry

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// KVReader is what a [Reader] needs of a clientv3.KV.
type KVReader interface {
	Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)
	GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error)
}

// Reader makes reads inside of attempts of [Engine.Do]: it repeats nothing, but makes second attempts beside slow ones.
type Reader struct {
	engine *Engine
	call   Call
	kv     KVReader
}

// NewReader returns a reader over kv. call is what its reads are parts of.
func NewReader(e *Engine, call Call, kv KVReader) Reader {
	return Reader{engine: e, call: call, kv: kv}
}

// Get reads.
func (r Reader) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return once(ctx, r, func(ctx context.Context, _ bool) (*clientv3.GetResponse, error) { return r.kv.Get(ctx, key, opts...) })
}

// GetStream opens a stream and returns once its first chunk is there. The stream lives until ctx ends, which must happen.
func (r Reader) GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	s, err := once(ctx, r, func(attempt context.Context, _ bool) (stream, error) {
		return r.open(ctx, attempt, key, opts)
	})
	if err != nil {
		return nil, err
	}
	out := make(chan clientv3.RangeStreamResponse, 1)
	go func() {
		defer close(out)
		if !s.ok {
			return
		}
		out <- s.first
		for chunk := range s.rest {
			out <- chunk
		}
	}()
	return out, nil
}

// stream is a stream whose first chunk has been received. ok is false if it ended without one.
type stream struct {
	first clientv3.RangeStreamResponse
	ok    bool
	rest  clientv3.GetStreamChan
}

// open opens a stream that lives until ctx ends, and waits for its first chunk as long as attempt lives.
func (r Reader) open(ctx, attempt context.Context, key string, opts []clientv3.OpOption) (s stream, err error) {
	own, cancel := context.WithCancel(context.WithoutCancel(attempt))
	if s.rest, err = r.kv.GetStream(own, key, opts...); err != nil || s.rest == nil {
		cancel()
		return s, err
	}
	end := func() {
		cancel()
		for range s.rest { // client/v3's goroutine may be waiting to hand over a chunk
		}
	}
	select {
	case s.first, s.ok = <-s.rest:
		err = s.first.Err()
	case <-attempt.Done():
		err = attempt.Err()
	}
	if err != nil {
		end()
		return s, err
	}
	context.AfterFunc(ctx, end) // also of a stream that has lost to another
	return s, nil
}

// once makes one attempt at a read and, if that is slow, a second one at another member.
func once[T any](ctx context.Context, r Reader, send Attempt[T]) (T, error) {
	call := &run[T]{Engine: r.engine, call: r.call, send: send, hedged: r.engine.hedges(&r.call), caller: ctx, ctx: ctx}
	if call.hedged {
		call.ctx, call.cancel = context.WithCancel(ctx)
		defer call.cancel()
	}
	x := call.round()
	return x.answer, x.err
}
