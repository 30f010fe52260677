package scan

import (
	"context"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
)

const (
	defaultPageSize = 5000
	initialPageSize = 500
	// A page should be about as large as a chunk of a stream: etcd's default limit for requests.
	targetPageBytes = 3 << 19
	// After a page was too large, the page size does not grow for this many pages.
	pageGrowthDelay = 16
)

// getPage returns the next page of the current range, or nothing at the end of the range.
func (c *cursor) getPage(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	resp, limit, err := c.requestPage(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.setRevision(resp); err != nil {
		return nil, err
	}
	kvs := resp.Kvs
	c.limitLeft -= int64(len(kvs))
	c.adjustPageSize(kvs, limit)
	if len(kvs) == 0 || !resp.More {
		c.remaining = c.remaining[1:]
		return kvs, nil
	}
	last := string(kvs[len(kvs)-1].Key)
	if c.opts.Reverse {
		c.remaining[0].To = last
	} else {
		c.remaining[0].From = keyspace.After(last)
	}
	return kvs, nil
}

// requestPage requests a page. While the response is too large, it halves the size of the page,
// down to one key.
func (c *cursor) requestPage(ctx context.Context) (resp *clientv3.GetResponse, limit int64, err error) {
	for {
		limit = c.pageSize
		if c.opts.Limit > 0 {
			limit = min(limit, c.limitLeft)
		}
		resp, err = c.reader.Get(ctx, firstKey(c.remaining[0]), c.pageOptions(limit)...)
		if err == nil || limit == 1 || !isTooLarge(err) {
			return resp, limit, err
		}
		c.pageSize, c.growthDelay = limit/2, pageGrowthDelay
	}
}

func (c *cursor) pageOptions(limit int64) []clientv3.OpOption {
	opts := []clientv3.OpOption{
		clientv3.WithRange(c.remaining[0].To),
		clientv3.WithRev(c.rev),
		clientv3.WithLimit(limit),
	}
	if c.opts.KeysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	if c.opts.Reverse {
		opts = append(opts, clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	}
	return opts
}

// adjustPageSize sets the size of the next page from the number of bytes in this one.
func (c *cursor) adjustPageSize(kvs []*mvccpb.KeyValue, limit int64) {
	if limit < c.pageSize || int64(len(kvs)) < limit {
		return // a short page says nothing about the size
	}
	c.growthDelay = max(c.growthDelay-1, 0)
	size := 0
	for _, kv := range kvs {
		size += len(kv.Key) + len(kv.Value)
	}
	switch {
	case size < targetPageBytes/2 && c.growthDelay == 0:
		c.pageSize = min(c.pageSize*2, c.opts.PageSize)
	case size > targetPageBytes*2:
		c.pageSize = max(c.pageSize/2, 1)
	}
}

// isTooLarge reports whether err says that the response is larger than the server sends or the
// client receives. The code alone is not enough: busy servers, and proxies that limit the rate of
// requests, return the same one.
func isTooLarge(err error) bool {
	return err != nil && retry.Code(err) == codes.ResourceExhausted && strings.Contains(retry.Message(err), "larger than max")
}
