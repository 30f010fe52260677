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
	// A page should weigh about as much as a chunk of a stream does: etcd's default limit of a request.
	pageBytes = 3 << 19
	// After a page was too large, this many come before the next is larger again.
	pagesHeld = 16
)

// getPage returns the next page of the current range, and nothing at the end of the range.
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

// askPage asks for a page, for half of it when it is too large, and so on.
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

// adjust sizes the next page by the weight of this one.
func (c *cursor) adjust(kvs []*mvccpb.KeyValue, asked int64) {
	if asked < c.page || int64(len(kvs)) < asked {
		return // a short page says nothing
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

// tooLarge reports whether err says that the response is larger than the server sends, or the client receives. The code
// alone does not tell: servers and proxies that are too busy, or limit the rate of requests, use the same one.
func tooLarge(err error) bool {
	return err != nil && retry.Code(err) == codes.ResourceExhausted && strings.Contains(retry.Message(err), "larger than max")
}
