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
	firstPage       = 500
	// A page should be about as large as a chunk of a stream: etcd's default limit for requests.
	pageBytes = 3 << 19
	// After a page was too large, the page size does not grow for this many pages.
	pagesHeld = 16
)

// getPage returns the next page of the current range, or nothing at the end of the range.
func (c *cursor) getPage(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	resp, asked, err := c.askPage(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.pin(resp); err != nil {
		return nil, err
	}
	kvs := resp.Kvs
	c.left -= int64(len(kvs))
	c.adjust(kvs, asked)
	if len(kvs) == 0 || !resp.More {
		c.rest = c.rest[1:]
		return kvs, nil
	}
	last := string(kvs[len(kvs)-1].Key)
	if c.opts.Reverse {
		c.rest[0].To = last
	} else {
		c.rest[0].From = keyspace.After(last)
	}
	return kvs, nil
}

// askPage requests a page. While the response is too large, it halves the size of the page, down to
// one key.
func (c *cursor) askPage(ctx context.Context) (resp *clientv3.GetResponse, asked int64, err error) {
	for {
		asked = c.page
		if c.opts.Limit > 0 {
			asked = min(asked, c.left)
		}
		resp, err = c.reader.Get(ctx, first(c.rest[0]), c.pageOptions(asked)...)
		if err == nil || asked == 1 || !tooLarge(err) {
			return resp, asked, err
		}
		c.page, c.held = asked/2, pagesHeld
	}
}

func (c *cursor) pageOptions(limit int64) []clientv3.OpOption {
	opts := []clientv3.OpOption{
		clientv3.WithRange(c.rest[0].To),
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

// adjust sets the size of the next page from the number of bytes in this one.
func (c *cursor) adjust(kvs []*mvccpb.KeyValue, asked int64) {
	if asked < c.page || int64(len(kvs)) < asked {
		return // a short page says nothing about the size
	}
	c.held = max(c.held-1, 0)
	weight := 0
	for _, kv := range kvs {
		weight += len(kv.Key) + len(kv.Value)
	}
	switch {
	case weight < pageBytes/2 && c.held == 0:
		c.page = min(c.page*2, c.opts.PageSize)
	case weight > pageBytes*2:
		c.page = max(c.page/2, 1)
	}
}

// tooLarge reports whether err says that the response is larger than the server sends or the client
// receives. The code alone is not enough: busy servers, and proxies that limit the rate of
// requests, return the same one.
func tooLarge(err error) bool {
	return err != nil && retry.Code(err) == codes.ResourceExhausted && strings.Contains(retry.Message(err), "larger than max")
}
