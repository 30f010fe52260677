package kv

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Get returns the current entry of key, or [ErrNotFound]. It is linearizable: it reflects every
// write, by any client, that was acknowledged before the call. It costs one RPC. It takes no
// options, so that Store, [Typed] and the caches share the method.
func (s *Store) Get(ctx context.Context, key string) (Entry[[]byte], error) {
	return s.getOne(ctx, "get", key)
}

// GetStale returns the entry of key from any member, even one that is disconnected from the others.
// The value can be arbitrarily old. It costs one RPC, which is cheaper for the cluster than Get.
func (s *Store) GetStale(ctx context.Context, key string) (Entry[[]byte], error) {
	return s.getOne(ctx, "get stale", key, clientv3.WithSerializable())
}

// GetAsOf returns the entry of key at revision rev. The error matches [ErrCompacted] if rev was
// compacted, and [ErrInvalid] if rev is in the future. It costs one RPC.
func (s *Store) GetAsOf(ctx context.Context, key string, rev int64) (Entry[[]byte], error) {
	if rev <= 0 {
		return Entry[[]byte]{}, s.fail("get as of", key, fmt.Errorf("%w: revision %d", errs.Invalid, rev))
	}
	return s.getOne(ctx, "get as of", key, clientv3.WithRev(rev))
}

func (s *Store) getOne(ctx context.Context, op, key string, opts ...clientv3.OpOption) (e Entry[[]byte], err error) {
	ctx, running := s.observe(ctx, op)
	defer func() { running.End(err, e.ModRevision) }()
	abs, err := s.absolute(key)
	if err != nil {
		return Entry[[]byte]{}, s.fail(op, key, err)
	}
	resp, err := retry.Do(ctx, s.engine, s.read(op, key), func(ctx context.Context, _ bool) (*clientv3.GetResponse, error) {
		return s.get(ctx, abs, opts...)
	})
	if err != nil {
		return Entry[[]byte]{}, err
	}
	if len(resp.Kvs) == 0 {
		return Entry[[]byte]{}, s.fail(op, key, ErrNotFound)
	}
	return entryFor(key, resp.Kvs[0]), nil
}

// Exists reports whether key exists. It costs one RPC, which does not fetch the value.
func (s *Store) Exists(ctx context.Context, key string) (found bool, err error) {
	ctx, running := s.observe(ctx, "exists")
	defer func() { running.End(err, 0) }()
	abs, err := s.absolute(key)
	if err != nil {
		return false, s.fail("exists", key, err)
	}
	n, err := s.count(ctx, "exists", key, []keyspace.Range{{From: string(abs), To: keyspace.After(string(abs))}})
	return n > 0, err
}

// Count returns the number of keys that begin with prefix, which must be "" or end in "/". It costs
// one RPC, which fetches no keys.
func (s *Store) Count(ctx context.Context, prefix string) (n int64, err error) {
	ctx, running := s.observe(ctx, "count")
	defer func() { running.End(err, 0) }()
	spans, err := s.harmless(prefix)
	if err != nil {
		return 0, s.fail("count", prefix, err)
	}
	return s.count(ctx, "count", prefix, spans)
}

// count returns the number of keys in ranges at one revision.
func (s *Store) count(ctx context.Context, op, key string, spans []keyspace.Range) (int64, error) {
	gets := make([]clientv3.Op, len(spans))
	for i, r := range spans {
		gets[i] = clientv3.OpGet(r.From, clientv3.WithRange(r.To), clientv3.WithCountOnly())
	}
	return retry.Do(ctx, s.engine, s.read(op, key), func(ctx context.Context, _ bool) (n int64, err error) {
		if len(gets) == 1 {
			r, err := s.kv.Do(ctx, gets[0])
			if err != nil {
				return 0, err
			}
			return r.Get().Count, nil
		}
		r, err := s.kv.Txn(ctx).Then(gets...).Commit()
		if err != nil {
			return 0, err
		}
		for _, one := range r.Responses {
			n += one.GetResponseRange().GetCount()
		}
		return n, nil
	})
}
