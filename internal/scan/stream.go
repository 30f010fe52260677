package scan

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// stream is one open RangeStream. It outlives the step that opened it, and is bounded by the loop.
type stream struct {
	chunks clientv3.GetStreamChan
	stop   context.CancelFunc
	whole  bool // the last chunk was seen
}

// errCutShort is a stream that ended without its last chunk, which tells by its header that it is: not one of etcd's.
var errCutShort = errors.New("the stream ended before its last chunk")

// receive returns the next chunk of the stream of the current range, which it opens when it is not. It returns nothing
// at the end of the range.
func (c *cursor) receive(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	if c.stream == nil {
		if err := c.open(ctx); err != nil {
			return nil, err
		}
	}
	for {
		chunk, err := c.stream.receive(ctx)
		if c.stream.whole && chunk == nil { // whatever else went wrong: everything was there
			c.close()
			c.rest = c.rest[1:]
			return nil, nil
		}
		if err != nil {
			c.close()
			return nil, preferEnd(ctx, err)
		}
		c.stream.whole = chunk.Header != nil && !chunk.More
		if len(chunk.Kvs) > 0 {
			c.rest[0].From = keyspace.After(string(chunk.Kvs[len(chunk.Kvs)-1].Key))
			return chunk.Kvs, nil
		}
	}
}

// preferEnd is the error of the step's context where that has ended: what it did to the stream is only the consequence.
func preferEnd(ctx context.Context, err error) error {
	if end := ctx.Err(); end != nil {
		return end
	}
	return err
}

// open opens the stream of the current range. ctx bounds the opening alone.
func (c *cursor) open(ctx context.Context) error {
	r := c.rest[0]
	opts := []clientv3.OpOption{clientv3.WithRange(r.To), clientv3.WithRev(c.rev)}
	if c.opts.KeysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	// The stream has what the step's context carries, but not its end.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unlink := context.AfterFunc(c.ctx, cancel)
	s := &stream{stop: func() { unlink(); cancel() }}
	opened := context.AfterFunc(ctx, cancel)
	chunks, err := c.reader.GetStream(own, first(r), opts...)
	opened()
	if err == nil && chunks == nil {
		err = errCutShort
	}
	if err != nil {
		s.stop()
		return preferEnd(ctx, err)
	}
	s.chunks = chunks
	c.stream = s
	return nil
}

// receive waits for the next chunk. The end of a stream is an error like others: the last chunk has said before that
// it is the last.
func (s *stream) receive(ctx context.Context) (*clientv3.GetResponse, error) {
	select {
	case chunk, ok := <-s.chunks:
		switch {
		case chunk.Err() != nil:
			return nil, chunk.Err()
		case !ok || chunk.RangeResponse == nil:
			return nil, errCutShort
		}
		return (*clientv3.GetResponse)(chunk.RangeResponse), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// close ends the open stream, if there is one. Client/v3's goroutine may be waiting to hand over a chunk, so that it
// ends only when everything is read.
func (c *cursor) close() {
	if c.stream == nil {
		return
	}
	c.stream.stop()
	for range c.stream.chunks {
	}
	c.stream = nil
}

// unstreamable reports whether pages can do what the stream cannot.
func unstreamable(err error) bool {
	return err != nil && (errors.Is(err, errCutShort) || retry.Code(err) == codes.Unimplemented || tooLarge(err))
}
