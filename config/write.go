package config

import (
	"context"
	"reflect"
	"time"

	"github.com/etcdkit/etcdkit/kv"
)

// How long a write that etcd has acknowledged waits for the source to show it.
const (
	awaitCheckInterval = time.Second      // where the watch is down
	maxAwait           = 10 * time.Second // where it is not, and the context has no end
	staleThreshold     = 3 * time.Second  // a watch that was not heard of for that long is down
)

// Set writes key in the encoding of T, whatever was there. It returns when this process shows it, bound values included,
// or a few seconds after etcd has acknowledged it, when the watch is down. It does not ask the validation of values that
// are bound to the key: [Value.Set] does. A value over the limits of the kv store is refused with kv.ErrTooLarge before
// anything is sent. One RPC; what an error says about its outcome is as for kv.Store.Put.
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

// put writes bytes.
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

// Delete deletes key from etcd: what lies below it in the fallback file, or the default, is in force again. It returns
// when this process shows it, as [Set] does; 0 and nil, at once, when etcd had no such key. One RPC.
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

// awaitRevision waits until the source shows a revision at which this process has written, or the watch is down.
func (s *Source) awaitRevision(ctx context.Context, rev int64) {
	ctx, stop := context.WithTimeout(ctx, maxAwait)
	defer stop()
	look := time.NewTicker(awaitCheckInterval)
	defer look.Stop()
	for {
		s.mu.RLock()
		there, moved := s.origin != Live || s.appliedRevision >= rev, s.applied
		s.mu.RUnlock()
		if there {
			return
		}
		select {
		case <-moved:
		case <-look.C:
			if r := s.replica.Load(); r.Err() != nil || r.Age() > staleThreshold {
				return
			}
		case <-ctx.Done():
			return
		case <-s.ctx.Done():
			return
		}
	}
}
