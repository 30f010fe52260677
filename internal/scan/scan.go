package scan

import (
	"context"
	"iter"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// Reader is what a scan needs of a clientv3.KV.
type Reader interface {
	Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)
	GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error)
}

// Policy makes one step: it calls the function, under a context that bounds it, until that returns nil or another call
// is of no use. Calls of one step follow each other, and none is under way when the policy returns. The error of the
// scan is what it returns. A nil Policy calls once.
type Policy func(ctx context.Context, step func(ctx context.Context) error) error

// Options says how to scan. The zero value reads everything at the current revision, in key order.
type Options struct {
	// Rev is the revision to read at; 0 is the current one.
	Rev int64
	// KeysOnly leaves the values behind.
	KeysOnly bool
	// Limit is the most keys to yield; 0 is all of them.
	Limit int64
	// Reverse yields the keys from the last to the first. The server sorts the whole rest of the range for each page.
	Reverse bool
	// PageSize is the most keys of a page; 0 is 5000. Pages begin smaller and grow while they stay light.
	PageSize int64
}

// Scan is a scan of some ranges. It is not safe for concurrent use.
type Scan struct {
	reader Reader
	policy Policy
	ranges []keyspace.Range
	opts   Options

	rev int64
}

// New describes a scan of absolute ranges, which are disjoint and in key order. It sends nothing.
func New(r Reader, p Policy, ranges []keyspace.Range, o Options) *Scan {
	if p == nil {
		p = once
	}
	if o.PageSize <= 0 {
		o.PageSize = defaultPageSize
	}
	return &Scan{reader: r, policy: p, ranges: ranges, opts: o, rev: o.Rev}
}

func once(ctx context.Context, step func(ctx context.Context) error) error { return step(ctx) }

// Revision is the revision that the scan reads at. It is known from the first chunk on, and after the loop.
func (s *Scan) Revision() int64 { return s.rev }

// Chunks yields the keys in chunks, none of which is empty. An error comes last, with no chunk. A chunk belongs to the
// caller. Each loop over the sequence is a scan of its own, with a revision of its own.
func (s *Scan) Chunks(ctx context.Context) iter.Seq2[[]*mvccpb.KeyValue, error] {
	return func(yield func([]*mvccpb.KeyValue, error) bool) {
		c := s.begin(ctx)
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
