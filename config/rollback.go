package config

import (
	"context"
	"errors"
	"iter"

	"github.com/etcdkit/etcdkit/kv"
)

// History yields the values that key has had, the newest first, back to when it was created last. It ends with
// kv.ErrCompacted where etcd has forgotten the rest, and is kv.ErrNotFound if the key is absent now. One RPC for each
// entry; leaving the loop ends it.
func (s *Source) History(ctx context.Context, key string) iter.Seq2[kv.Entry[[]byte], error] {
	return func(yield func(kv.Entry[[]byte], error) bool) {
		if err := s.checkKey(key); err != nil {
			yield(kv.Entry[[]byte]{}, opError("history", key, err))
			return
		}
		e, err := s.store.Get(ctx, key)
		for err == nil && yield(e, nil) {
			if e.ModRevision <= e.CreateRevision {
				return
			}
			e, err = s.store.GetAsOf(ctx, key, e.ModRevision-1)
		}
		if err != nil {
			yield(kv.Entry[[]byte]{}, opError("history", key, reason(err)))
		}
	}
}

// Rollback writes the value again that key had at revision rev, on condition that nobody changes the key meanwhile:
// kv.ErrConflict otherwise. It also brings back a key that was deleted since; [Change].Revision - 1 is when it was there
// last. It is kv.ErrNotFound if key was absent at rev, kv.ErrCompacted if etcd has forgotten it. Where rev is what the
// key stands at, nothing is written. It returns when this process shows it, as [Set] does. Three RPCs.
func (s *Source) Rollback(ctx context.Context, key string, rev int64) (newRev int64, err error) {
	const op = "roll back"
	if err := s.checkKey(key); err != nil {
		return 0, opError(op, key, err)
	}
	old, err := s.store.GetAsOf(ctx, key, rev)
	if err != nil {
		return 0, opError(op, key, reason(err))
	}
	now, err := s.store.Get(ctx, key)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		newRev, err = s.store.Create(ctx, key, old.Value)
		if errors.Is(err, kv.ErrExists) {
			err = errors.Join(kv.ErrConflict, reason(err))
		}
	case err != nil:
		return 0, opError(op, key, reason(err))
	case now.ModRevision == old.ModRevision:
		return now.ModRevision, nil
	default:
		newRev, err = s.store.Replace(ctx, key, old.Value, now.ModRevision)
	}
	if err != nil {
		return 0, kvError(op, key, err)
	}
	s.awaitRevision(ctx, newRev)
	return newRev, nil
}
