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
	chunks   clientv3.GetStreamChan
	cancel   context.CancelFunc
	complete bool // the last chunk was received
}

// errTruncated means that a stream ended before its last chunk, which is marked by its header.
// etcd's streams never do that.
var errTruncated = errors.New("the stream ended before its last chunk")

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
		// All keys were received, so the error does not matter.
		if c.stream.complete && chunk == nil {
			c.close()
			c.remaining = c.remaining[1:]
			return nil, nil
		}
		if err != nil {
			c.close()
			return nil, contextErrorOr(ctx, err)
		}
		c.stream.complete = chunk.Header != nil && !chunk.More
		if len(chunk.Kvs) > 0 {
			c.remaining[0].From = keyspace.After(string(chunk.Kvs[len(chunk.Kvs)-1].Key))
			return chunk.Kvs, nil
		}
	}
}

// contextErrorOr returns the error of ctx if ctx has ended, because err is then only a consequence.
func contextErrorOr(ctx context.Context, err error) error {
	if end := ctx.Err(); end != nil {
		return end
	}
	return err
}

// open opens the stream of the current range. ctx bounds only the opening.
func (c *cursor) open(ctx context.Context) error {
	r := c.remaining[0]
	opts := []clientv3.OpOption{clientv3.WithRange(r.To), clientv3.WithRev(c.rev)}
	if c.opts.KeysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	// The stream keeps the values of the step's context, but must outlive it.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unlink := context.AfterFunc(c.ctx, cancel)
	s := &stream{cancel: func() { unlink(); cancel() }}
	opened := context.AfterFunc(ctx, cancel)
	chunks, err := c.reader.GetStream(own, firstKey(r), opts...)
	opened()
	if err == nil && chunks == nil {
		err = errTruncated
	}
	if err != nil {
		s.cancel()
		return contextErrorOr(ctx, err)
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
			return nil, errTruncated
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
	c.stream.cancel()
	for range c.stream.chunks {
	}
	c.stream = nil
}

// needsPages reports whether err is one that reading pages avoids.
func needsPages(err error) bool {
	return err != nil && (errors.Is(err, errTruncated) || retry.Code(err) == codes.Unimplemented || isTooLarge(err))
}
