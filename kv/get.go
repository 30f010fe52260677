package kv

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
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
		return Entry[[]byte]{}, s.opError("get as of", key, fmt.Errorf("%w: revision %d", errs.Invalid, rev))
	}
	return s.getOne(ctx, "get as of", key, clientv3.WithRev(rev))
}

func (s *Store) getOne(ctx context.Context, op, key string, opts ...clientv3.OpOption) (e Entry[[]byte], err error) {
	ctx, running := s.observe(ctx, op)
	defer func() { running.End(err, e.ModRevision) }()
	abs, err := s.absoluteKey(key)
	if err != nil {
		return Entry[[]byte]{}, s.opError(op, key, err)
	}
	resp, err := retry.Do(ctx, s.engine, s.readCall(op, key), func(ctx context.Context, _ bool) (*clientv3.GetResponse, error) {
		return s.get(ctx, abs, opts...)
	})
	if err != nil {
		return Entry[[]byte]{}, err
	}
	if len(resp.Kvs) == 0 {
		return Entry[[]byte]{}, s.opError(op, key, ErrNotFound)
	}
	return entryFor(key, resp.Kvs[0]), nil
}

// Exists reports whether key exists. It costs one RPC, which does not fetch the value.
func (s *Store) Exists(ctx context.Context, key string) (found bool, err error) {
	ctx, running := s.observe(ctx, "exists")
	defer func() { running.End(err, 0) }()
	abs, err := s.absoluteKey(key)
	if err != nil {
		return false, s.opError("exists", key, err)
	}
	n, err := s.count(ctx, "exists", key, []keyspace.Range{{From: string(abs), To: keyspace.After(string(abs))}})
	return n > 0, err
}

// Count returns the number of keys that begin with prefix, which must be "" or end in "/". It costs
// one RPC, which fetches no keys.
func (s *Store) Count(ctx context.Context, prefix string) (n int64, err error) {
	ctx, running := s.observe(ctx, "count")
	defer func() { running.End(err, 0) }()
	spans, err := s.readSpans(prefix)
	if err != nil {
		return 0, s.opError("count", prefix, err)
	}
	return s.count(ctx, "count", prefix, spans)
}

// count returns the number of keys in ranges at one revision.
func (s *Store) count(ctx context.Context, op, key string, spans []keyspace.Range) (int64, error) {
	gets := make([]clientv3.Op, len(spans))
	for i, r := range spans {
		gets[i] = clientv3.OpGet(r.From, clientv3.WithRange(r.To), clientv3.WithCountOnly())
	}
	return retry.Do(ctx, s.engine, s.readCall(op, key), func(ctx context.Context, _ bool) (n int64, err error) {
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

// maxGetManyAttempts is the maximum number of attempts of GetMany when compactions interrupt it.
const maxGetManyAttempts = 3

// GetMany returns the entries of any number of keys, all at the same revision rev. The read is
// linearizable, like Get. Keys that do not exist are missing from the map. It costs one RPC for
// every [Limits].TxnOps keys, 128 by default. Without keys it sends nothing and rev is 0.
func (s *Store) GetMany(ctx context.Context, keys ...string) (entries map[string]Entry[[]byte], rev int64, err error) {
	ctx, running := s.observe(ctx, "get many")
	defer func() { running.End(err, rev) }()
	all := make([]string, 0, len(keys))
	seen := make(map[string]bool, len(keys))
	for _, key := range keys {
		abs, err := s.absoluteKey(key)
		if err != nil {
			return nil, 0, s.opError("get many", key, err)
		}
		if !seen[key] {
			seen[key] = true
			all = append(all, string(abs))
		}
	}
	var kvs []*keyValue
	for n := 1; ; n++ {
		kvs, rev, err = s.readKeys(ctx, "get many", all, 0)
		if err == nil || !errors.Is(err, ErrCompacted) || n == maxGetManyAttempts {
			break
		}
	}
	if err != nil {
		return nil, 0, err
	}
	entries = make(map[string]Entry[[]byte], len(kvs))
	for _, kv := range kvs {
		if kv != nil {
			e := entryOf(kv, len(s.ns))
			entries[e.Key] = e
		}
	}
	return entries, rev, nil
}

// readKeys reads absolute keys at revision rev, or at the current revision if rev is 0. It returns
// them in order, nil for those that do not exist, and the revision.
func (c *core) readKeys(ctx context.Context, op string, keys []string, rev int64) (kvs []*keyValue, at int64, err error) {
	kvs = make([]*keyValue, 0, len(keys))
	for len(keys) > 0 {
		n := min(len(keys), c.limits.TxnOps)
		gets := make([]clientv3.Op, n)
		for i, key := range keys[:n] {
			gets[i] = clientv3.OpGet(key, clientv3.WithRev(rev))
		}
		call := retry.Call{Pkg: "kv", Op: op, Key: keys[0], Read: true}
		r, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, _ bool) (*clientv3.TxnResponse, error) {
			return c.kv.Txn(ctx).Then(gets...).Commit()
		})
		if err != nil {
			return nil, 0, err
		}
		if rev == 0 {
			rev = r.Header.GetRevision()
		}
		for _, one := range r.Responses {
			kvs = append(kvs, onlyKey(one))
		}
		keys = keys[n:]
	}
	return kvs, rev, nil
}

// Entry is a key with its value and revisions. This package and the caches use it for both raw and
// typed values.
type Entry[T any] struct {
	// Key is relative to the handle that returned the entry, which accepts it as an argument.
	Key   string
	Value T
	// CreateRevision is the revision at which the key was created, ModRevision the one at which it
	// was last changed. Pass ModRevision to Replace and DeleteAt. It is also suitable as an ETag.
	CreateRevision, ModRevision int64
	// Version is the number of changes since the key was created, starting at 1. It starts again at
	// 1 when the key is created again, so it does not identify a state of the key.
	Version int64
	// Lease is the lease that the key is attached to, or 0.
	Lease clientv3.LeaseID
}

// entryOf converts what etcd returned to an entry whose key lacks the first skip bytes.
func entryOf(kv *mvccpb.KeyValue, skip int) Entry[[]byte] {
	return entryFor(string(kv.GetKey()[skip:]), kv)
}

// entryFor is like entryOf, with a given key.
func entryFor(key string, kv *mvccpb.KeyValue) Entry[[]byte] {
	return Entry[[]byte]{
		Key:            key,
		Value:          kv.GetValue(),
		CreateRevision: kv.GetCreateRevision(),
		ModRevision:    kv.GetModRevision(),
		Version:        kv.GetVersion(),
		Lease:          clientv3.LeaseID(kv.GetLease()),
	}
}
