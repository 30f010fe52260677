package scan

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// maxRestarts bounds how often a scan of which nothing was yielded begins anew because its revision was compacted.
const maxRestarts = 3

// cursor is one loop over a scan.
type cursor struct {
	*Scan

	ctx     context.Context  //nolint:containedctx // lives as long as the loop
	rest    []keyspace.Range // what is left to read, the current range first
	left    int64            // how many keys may still be yielded, where there is a limit
	paging  bool             // for good
	page    int64            // how many keys to ask for next
	held    int              // how many pages do not grow
	stream  *stream          // open, or nil
	yielded bool
}

func (s *Scan) begin(ctx context.Context) *cursor {
	c := &cursor{Scan: s, ctx: ctx}
	c.rewind()
	return c
}

// rewind sets the cursor before the first key.
func (c *cursor) rewind() {
	c.close()
	c.rev = c.opts.Rev
	c.left = c.opts.Limit
	c.page = min(firstPage, c.opts.PageSize)
	c.paging = c.paging || c.opts.Reverse || c.opts.Limit > 0
	c.rest = slices.Clone(c.ranges)
	if c.opts.Reverse {
		slices.Reverse(c.rest)
	}
}

// next returns the next chunk, or none at the end.
func (c *cursor) next() ([]*mvccpb.KeyValue, error) {
	for restarts := 0; ; restarts++ {
		var kvs []*mvccpb.KeyValue
		err := c.policy(c.ctx, func(ctx context.Context) (err error) {
			kvs, err = c.read(ctx)
			return err
		})
		switch {
		case err == nil:
			c.yielded = true
			return kvs, nil
		case !compacted(err):
			return nil, err
		case c.yielded || c.opts.Rev != 0 || restarts == maxRestarts:
			return nil, asCompacted(err)
		}
		c.rewind()
	}
}

// read makes one step: what it has done when it fails stays done, and the next call goes on from there.
func (c *cursor) read(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // even where a chunk lies ready
	}
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	for len(c.rest) > 0 {
		if c.rest[0].Empty() || c.spent() {
			c.rest = c.rest[1:]
			continue
		}
		kvs, err := c.chunk(ctx)
		if err != nil || len(kvs) > 0 {
			return kvs, err
		}
	}
	return nil, nil
}

// spent reports whether the limit is used up.
func (c *cursor) spent() bool { return c.opts.Limit > 0 && c.left <= 0 }

// chunk returns the next keys of the current range, and no error and none when it has come to an end.
func (c *cursor) chunk(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	if !c.paging {
		kvs, err := c.receive(ctx)
		if !unstreamable(err) {
			return kvs, err
		}
		c.paging = true
	}
	return c.getPage(ctx)
}

// prepare finds out the revision, which the first page of a scan by pages tells by itself.
func (c *cursor) prepare(ctx context.Context) error {
	if c.rev != 0 || c.paging || len(c.rest) == 0 {
		return nil
	}
	// One key is enough to learn the revision, and unlike the range costs the server nothing to count. It is in the
	// range, so that whoever may read the range may read it.
	resp, err := c.reader.Get(ctx, first(c.rest[0]), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	return c.pin(resp)
}

// errNoRevision is an answer that does not say which revision it is of.
var errNoRevision = errors.New("the answer has no revision")

// pin takes the revision of the first answer for the whole scan.
func (c *cursor) pin(resp *clientv3.GetResponse) error {
	if c.rev != 0 {
		return nil
	}
	if c.rev = resp.Header.GetRevision(); c.rev == 0 {
		return errNoRevision
	}
	return nil
}

// first is the key that a range begins with, as etcd wants it: it has no empty key.
func first(r keyspace.Range) string {
	if r.From == "" {
		return keyspace.First
	}
	return r.From
}

// compacted reports whether err says that the history asked for is gone, before or after the caller's policy has seen it.
func compacted(err error) bool {
	return errors.Is(err, errs.Compacted) || errors.Is(err, rpctypes.ErrCompacted)
}

// asCompacted makes err match errs.Compacted.
func asCompacted(err error) error {
	if errors.Is(err, errs.Compacted) {
		return err
	}
	return fmt.Errorf("%w: %w", errs.Compacted, err)
}
