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

	ctx         context.Context  //nolint:containedctx // of the loop
	remaining   []keyspace.Range // what is left to read, the current range first
	limitLeft   int64            // how many keys may still be yielded; used if there is a limit
	paging      bool             // once set, the rest of the loop reads pages
	pageSize    int64            // how many keys to request next
	growthDelay int              // how many pages must pass before the page size grows again
	stream      *stream          // nil if none is open
	yielded     bool
}

func (s *Scan) newCursor(ctx context.Context) *cursor {
	c := &cursor{Scan: s, ctx: ctx}
	c.reset()
	return c
}

// reset moves the cursor before the first key.
func (c *cursor) reset() {
	c.close()
	c.rev = c.opts.Rev
	c.limitLeft = c.opts.Limit
	c.pageSize = min(initialPageSize, c.opts.PageSize)
	c.paging = c.paging || c.opts.Reverse || c.opts.Limit > 0
	c.remaining = slices.Clone(c.ranges)
	if c.opts.Reverse {
		slices.Reverse(c.remaining)
	}
}

// next returns the next chunk, or nil at the end.
func (c *cursor) next() ([]*mvccpb.KeyValue, error) {
	for restarts := 0; ; restarts++ {
		var kvs []*mvccpb.KeyValue
		err := c.retry(c.ctx, func(ctx context.Context) (err error) {
			kvs, err = c.readStep(ctx)
			return err
		})
		switch {
		case err == nil:
			c.yielded = true
			return kvs, nil
		case !isCompacted(err):
			return nil, err
		case c.yielded || c.opts.Rev != 0 || restarts == maxRestarts:
			return nil, compactedError(err)
		}
		c.reset()
	}
}

// readStep executes one step. If it fails, the progress that it made is kept, and the next call
// continues from there.
func (c *cursor) readStep(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // even if a chunk is buffered
	}
	if err := c.findRevision(ctx); err != nil {
		return nil, err
	}
	for len(c.remaining) > 0 {
		if c.remaining[0].Empty() || c.limitReached() {
			c.remaining = c.remaining[1:]
			continue
		}
		kvs, err := c.readChunk(ctx)
		if err != nil || len(kvs) > 0 {
			return kvs, err
		}
	}
	return nil, nil
}

// limitReached reports whether the limit is reached.
func (c *cursor) limitReached() bool { return c.opts.Limit > 0 && c.limitLeft <= 0 }

// readChunk returns the next keys of the current range. At its end it returns no keys and no error.
func (c *cursor) readChunk(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	if !c.paging {
		kvs, err := c.receive(ctx)
		if !needsPages(err) {
			return kvs, err
		}
		c.paging = true
	}
	return c.getPage(ctx)
}

// findRevision determines the revision of the scan. A scan that reads pages takes it from the first
// page instead.
func (c *cursor) findRevision(ctx context.Context) error {
	if c.rev != 0 || c.paging || len(c.remaining) == 0 {
		return nil
	}
	// Counting one key is enough to learn the revision. Counting the range would cost the server
	// more. The key is in the range, so a user who may read the range may read it.
	resp, err := c.reader.Get(ctx, firstKey(c.remaining[0]), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	return c.setRevision(resp)
}

// errNoRevision means that a response has no revision.
var errNoRevision = errors.New("the answer has no revision")

// setRevision sets the revision of the scan to that of its first response.
func (c *cursor) setRevision(resp *clientv3.GetResponse) error {
	if c.rev != 0 {
		return nil
	}
	if c.rev = resp.Header.GetRevision(); c.rev == 0 {
		return errNoRevision
	}
	return nil
}

// firstKey returns the first key of a range. It returns keyspace.First for "", because etcd has no
// empty key.
func firstKey(r keyspace.Range) string {
	if r.From == "" {
		return keyspace.First
	}
	return r.From
}

// isCompacted reports whether err says that the history was compacted. It recognizes the errors of
// etcd and those that the caller's policy returns.
func isCompacted(err error) bool {
	return errors.Is(err, errs.Compacted) || errors.Is(err, rpctypes.ErrCompacted)
}

// compactedError returns err, wrapped if necessary so that it matches errs.Compacted.
func compactedError(err error) error {
	if errors.Is(err, errs.Compacted) {
		return err
	}
	return fmt.Errorf("%w: %w", errs.Compacted, err)
}
