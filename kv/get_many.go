package kv

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// getManyTries is the maximum number of attempts of GetMany when compactions interrupt it.
const getManyTries = 3

// GetMany returns the entries of any number of keys, all at the same revision rev. The read is
// linearizable, like Get. Keys that do not exist are missing from the map. It costs one RPC for
// every [Limits].TxnOps keys, 128 by default. Without keys it sends nothing and rev is 0.
func (s *Store) GetMany(ctx context.Context, keys ...string) (entries map[string]Entry[[]byte], rev int64, err error) {
	ctx, running := s.observe(ctx, "get many")
	defer func() { running.End(err, rev) }()
	if ctx == nil {
		return nil, 0, s.fail("get many", "", fmt.Errorf("%w: nil context", errs.Invalid))
	}
	all := make([]string, 0, len(keys))
	seen := make(map[string]bool, len(keys))
	for _, key := range keys {
		abs, err := s.absolute(key)
		if err != nil {
			return nil, 0, s.fail("get many", key, err)
		}
		if !seen[key] {
			seen[key] = true
			all = append(all, string(abs))
		}
	}
	var kvs []*keyValue
	for n := 1; ; n++ {
		kvs, rev, err = s.readKeys(ctx, "get many", all, 0)
		if err == nil || !errors.Is(err, ErrCompacted) || n == getManyTries {
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
