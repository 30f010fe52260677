package retry

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// KVReader is the part of a clientv3.KV that a [Reader] uses.
type KVReader interface {
	Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)
	GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error)
}

// Reader sends reads within attempts of [Engine.Do]. It does not retry, but makes second attempts
// in parallel with slow ones.
type Reader struct {
	engine *Engine
	call   Call
	kv     KVReader
}

// NewReader returns a reader over kv. call is the call that its reads are parts of.
func NewReader(e *Engine, call Call, kv KVReader) Reader {
	return Reader{engine: e, call: call, kv: kv}
}

// Get implements clientv3.KV.
func (r Reader) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return hedgedRead(ctx, r, func(ctx context.Context, _ bool) (*clientv3.GetResponse, error) { return r.kv.Get(ctx, key, opts...) })
}

// GetStream opens a stream and returns once its first chunk has arrived. The stream ends when ctx
// ends, which must happen.
func (r Reader) GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	s, err := hedgedRead(ctx, r, func(attempt context.Context, _ bool) (openedStream, error) {
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

// openedStream is a stream whose first chunk was received. ok is false if it ended without one.
type openedStream struct {
	first clientv3.RangeStreamResponse
	ok    bool
	rest  clientv3.GetStreamChan
}

// open opens a stream that ends when ctx ends, and waits for its first chunk until attempt ends.
func (r Reader) open(ctx, attempt context.Context, key string, opts []clientv3.OpOption) (s openedStream, err error) {
	own, cancel := context.WithCancel(context.WithoutCancel(attempt))
	// Until the first chunk, own ends with attempt too, since opening waits for a connection and a
	// login; afterwards it outlives attempt.
	stop := context.AfterFunc(attempt, cancel)
	if s.rest, err = r.kv.GetStream(own, key, opts...); err == nil && s.rest != nil {
		select {
		case s.first, s.ok = <-s.rest:
			err = s.first.Err()
		case <-attempt.Done():
			err = attempt.Err()
		}
	}
	if !stop() { // the attempt has ended, and own with it
		err = attempt.Err()
	}
	end := func() {
		cancel()
		if s.rest != nil {
			for range s.rest { // client/v3's goroutine may be blocked sending a chunk
			}
		}
	}
	if err != nil {
		end()
		return s, err
	}
	context.AfterFunc(ctx, end) // even if another stream is used
	return s, nil
}

// hedgedRead makes one attempt at a read and, if it is slow, a second one at another member.
func hedgedRead[T any](ctx context.Context, r Reader, send SendFunc[T]) (T, error) {
	call := &run[T]{Engine: r.engine, call: r.call, send: send, hedged: r.engine.canHedge(&r.call), callerCtx: ctx, ctx: ctx}
	if call.hedged {
		call.ctx, call.cancel = context.WithCancel(ctx)
		defer call.cancel()
	}
	x := call.round()
	return x.value, x.err
}
