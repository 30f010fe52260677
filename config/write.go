package config

import (
	"context"
	"reflect"
	"time"

	"github.com/etcdkit/etcdkit/kv"
)

// Limits of the wait for an acknowledged write to become visible in the source.
const (
	awaitCheckInterval = time.Second     // how often to check whether the watch is down
	maxAwait           = 5 * time.Second // a watch that is silent may not be known to be down yet
)

// Set writes key in the encoding of T. It returns once this process shows the value, including
// bound values, or, if the watch is down, a few seconds after etcd has acknowledged the write. It
// does not call the validation functions of bound values; use [Value.Set] for that. A value over
// the limits of the kv store fails with kv.ErrTooLarge before anything is sent. It costs one RPC.
// Its errors describe the outcome as those of kv.Store.Put do.
func Set[T any](ctx context.Context, s *Source, key string, v T, o ...kv.PutOption) (rev int64, err error) {
	const op = "set"
	if err := s.checkKey(key); err != nil {
		return 0, opError(op, key, err)
	}
	if err := checkType(reflect.TypeFor[T]()); err != nil {
		return 0, opError(op, key, err)
	}
	var b []byte
	if p := callSafely(func() { b, err = encode(reflect.ValueOf(&v).Elem(), format{yaml: isYAMLKey(key)}) }); p != nil {
		err = p
	}
	if err != nil {
		return 0, opError(op, key, err)
	}
	return s.put(ctx, key, b, o)
}

// put writes an encoded value.
func (s *Source) put(ctx context.Context, key string, b []byte, o []kv.PutOption) (int64, error) {
	if err := s.checkKey(key); err != nil {
		return 0, opError("set", key, err)
	}
	rev, err := s.store.Put(ctx, key, b, o...)
	if err != nil {
		return 0, kvError("set", key, err)
	}
	s.awaitRevision(ctx, rev)
	return rev, nil
}

// Delete deletes key from etcd, so that the fallback file's value or the default takes effect. Like
// [Set], it returns once this process shows the change. If key does not exist, it returns 0 and nil
// at once. It costs one RPC.
func (s *Source) Delete(ctx context.Context, key string) (rev int64, err error) {
	if err := s.checkKey(key); err != nil {
		return 0, opError("delete", key, err)
	}
	rev, err = s.store.Delete(ctx, key)
	if err != nil {
		return 0, kvError("delete", key, err)
	}
	s.awaitRevision(ctx, rev)
	return rev, nil
}

// awaitRevision waits until the source has applied rev, or the watch is down.
func (s *Source) awaitRevision(ctx context.Context, rev int64) {
	ctx, stop := context.WithTimeout(ctx, maxAwait)
	defer stop()
	ticker := time.NewTicker(awaitCheckInterval)
	defer ticker.Stop()
	for {
		s.mu.RLock()
		reached, applied := s.origin != Live || s.appliedRevision >= rev, s.applied
		s.mu.RUnlock()
		if reached {
			return
		}
		select {
		case <-applied:
		case <-ticker.C:
			if r := s.replica.Load(); r.Err() != nil {
				return
			}
		case <-ctx.Done():
			return
		case <-s.ctx.Done():
			return
		}
	}
}
