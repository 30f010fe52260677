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

// maxRestarts is how many times a scan that has yielded nothing restarts because its revision was
// compacted.
const maxRestarts = 3

// cursor is the state of one loop over a scan.
type cursor struct {
	*Scan

	ctx     context.Context  //nolint:containedctx // of the loop
	rest    []keyspace.Range // what is left to read, the current range first
	left    int64            // how many keys may still be yielded; used if there is a limit
	paging  bool             // once set, the rest of the loop reads pages
	page    int64            // how many keys to request next
	held    int              // how many pages must pass before the page size grows again
	stream  *stream          // nil if none is open
	yielded bool
}

func (s *Scan) begin(ctx context.Context) *cursor {
	c := &cursor{Scan: s, ctx: ctx}
	c.rewind()
	return c
}

// rewind moves the cursor before the first key.
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

// next returns the next chunk, or nil at the end.
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

// read executes one step. If it fails, the progress that it made is kept, and the next call
// continues from there.
func (c *cursor) read(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // even if a chunk is buffered
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

// spent reports whether the limit is reached.
func (c *cursor) spent() bool { return c.opts.Limit > 0 && c.left <= 0 }

// chunk returns the next keys of the current range. At its end it returns no keys and no error.
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

// prepare determines the revision of the scan. A scan that reads pages takes it from the first page
// instead.
func (c *cursor) prepare(ctx context.Context) error {
	if c.rev != 0 || c.paging || len(c.rest) == 0 {
		return nil
	}
	// Counting one key is enough to learn the revision. Counting the range would cost the server
	// more. The key is in the range, so a user who may read the range may read it.
	resp, err := c.reader.Get(ctx, first(c.rest[0]), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	return c.pin(resp)
}

// errNoRevision means that a response has no revision.
var errNoRevision = errors.New("the answer has no revision")

// pin sets the revision of the scan to that of its first response.
func (c *cursor) pin(resp *clientv3.GetResponse) error {
	if c.rev != 0 {
		return nil
	}
	if c.rev = resp.Header.GetRevision(); c.rev == 0 {
		return errNoRevision
	}
	return nil
}

// first returns the first key of a range. It returns keyspace.First for "", because etcd has no
// empty key.
func first(r keyspace.Range) string {
	if r.From == "" {
		return keyspace.First
	}
	return r.From
}

// compacted reports whether err says that the history was compacted. It recognizes the errors of
// etcd and those that the caller's policy returns.
func compacted(err error) bool {
	return errors.Is(err, errs.Compacted) || errors.Is(err, rpctypes.ErrCompacted)
}

// asCompacted returns err, wrapped if necessary so that it matches errs.Compacted.
func asCompacted(err error) error {
	if errors.Is(err, errs.Compacted) {
		return err
	}
	return fmt.Errorf("%w: %w", errs.Compacted, err)
}
