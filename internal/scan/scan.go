package scan

import (
	"context"
	"iter"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// Reader is the part of a clientv3.KV that a scan uses.
type Reader interface {
	Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)
	GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error)
}

// RetryFunc executes one step. It calls step with a context that bounds it, until step returns nil
// or another call is of no use. The calls must not overlap, and none may run after it returns.
// The error of the scan is the one that it returns. A nil RetryFunc calls step once.
type RetryFunc func(ctx context.Context, step func(ctx context.Context) error) error

// Options configures a scan. The zero value reads everything at the current revision, in key order.
type Options struct {
	// Rev is the revision to read at. 0 means the current one.
	Rev int64
	// KeysOnly omits the values.
	KeysOnly bool
	// Limit is the maximum number of keys to yield. 0 means all.
	Limit int64
	// Reverse yields the keys from the last to the first. For each page, the server sorts the whole
	// rest of the range.
	Reverse bool
	// PageSize is the maximum number of keys in a page. 0 means 5000. The first page has at most
	// 500; the size grows while the pages stay small.
	PageSize int64
}

// Scan reads some ranges. It is not safe for concurrent use.
type Scan struct {
	reader Reader
	retry  RetryFunc
	ranges []keyspace.Range
	opts   Options

	rev int64
}

// New returns a scan of absolute ranges, which must be disjoint and in key order. It sends nothing.
func New(r Reader, retry RetryFunc, ranges []keyspace.Range, o Options) *Scan {
	if retry == nil {
		retry = callOnce
	}
	if o.PageSize <= 0 {
		o.PageSize = defaultPageSize
	}
	return &Scan{reader: r, retry: retry, ranges: ranges, opts: o, rev: o.Rev}
}

func callOnce(ctx context.Context, step func(ctx context.Context) error) error { return step(ctx) }

// Revision returns the revision that the scan reads at. It is known from the first chunk on, and
// stays known after the loop.
func (s *Scan) Revision() int64 { return s.rev }

// Chunks returns a sequence of non-empty chunks of keys. An error comes last, with a nil chunk. The
// caller owns the chunks. Each loop over the sequence is a separate scan with its own revision.
func (s *Scan) Chunks(ctx context.Context) iter.Seq2[[]*mvccpb.KeyValue, error] {
	return func(yield func([]*mvccpb.KeyValue, error) bool) {
		c := s.newCursor(ctx)
		defer c.close()
		for {
			kvs, err := c.next()
			if err != nil {
				yield(nil, err)
				return
			}
			if len(kvs) == 0 || !yield(kvs, nil) {
				return
			}
		}
	}
}
