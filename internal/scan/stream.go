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

// stream is an open RangeStream. It outlives the step that opened it and ends with the loop at the
// latest.
type stream struct {
	chunks clientv3.GetStreamChan
	stop   context.CancelFunc
	whole  bool // the last chunk was received
}

// errCutShort means that a stream ended before its last chunk, which is marked by its header.
// etcd's streams never do that.
var errCutShort = errors.New("the stream ended before its last chunk")

// receive returns the next chunk of the current range and opens its stream if necessary. At the end
// of the range it returns nothing.
func (c *cursor) receive(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	if c.stream == nil {
		if err := c.open(ctx); err != nil {
			return nil, err
		}
	}
	for {
		chunk, err := c.stream.receive(ctx)
		if c.stream.whole && chunk == nil { // all keys were received, so the error does not matter
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

// preferEnd returns the error of ctx if ctx has ended, because err is then only a consequence.
func preferEnd(ctx context.Context, err error) error {
	if end := ctx.Err(); end != nil {
		return end
	}
	return err
}

// open opens the stream of the current range. ctx bounds only the opening.
func (c *cursor) open(ctx context.Context) error {
	r := c.rest[0]
	opts := []clientv3.OpOption{clientv3.WithRange(r.To), clientv3.WithRev(c.rev)}
	if c.opts.KeysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	// The stream keeps the values of the step's context, but must outlive it.
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

// receive waits for the next chunk. It returns an error at the end of the stream too: the last
// chunk is recognized by its header.
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

// close closes the stream, if one is open. It reads the stream to its end, because the goroutine of
// client/v3 may be blocked sending a chunk and could not exit otherwise.
func (c *cursor) close() {
	if c.stream == nil {
		return
	}
	c.stream.stop()
	for range c.stream.chunks {
	}
	c.stream = nil
}

// unstreamable reports whether err is one that reading pages avoids.
func unstreamable(err error) bool {
	return err != nil && (errors.Is(err, errCutShort) || retry.Code(err) == codes.Unimplemented || tooLarge(err))
}
