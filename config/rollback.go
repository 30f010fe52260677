package config

import (
	"context"
	"errors"
	"iter"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// History yields the values of key, newest first, back to its last creation. The last error is
// kv.ErrCompacted if older values were compacted, and kv.ErrNotFound if key does not exist. It
// costs one RPC per value; leaving the loop ends it.
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
			yield(kv.Entry[[]byte]{}, opError("history", key, errs.Cause(err)))
		}
	}
}

// Rollback writes the value that key had at revision rev. It returns kv.ErrConflict if another
// writer changes the key at the same time, kv.ErrNotFound if key did not exist at rev, and
// kv.ErrCompacted if the revision was compacted. A deleted key is created again; it last existed at
// the revision before that of the deletion's [Change]. If rev is the current value's revision,
// nothing is written. Like [Set], Rollback returns once this process shows the value. It costs
// three RPCs.
func (s *Source) Rollback(ctx context.Context, key string, rev int64) (newRev int64, err error) {
	const op = "roll back"
	if err := s.checkKey(key); err != nil {
		return 0, opError(op, key, err)
	}
	old, err := s.store.GetAsOf(ctx, key, rev)
	if err != nil {
		return 0, opError(op, key, errs.Cause(err))
	}
	now, err := s.store.Get(ctx, key)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		newRev, err = s.store.Create(ctx, key, old.Value)
		if errors.Is(err, kv.ErrExists) {
			err = errors.Join(kv.ErrConflict, errs.Cause(err))
		}
	case err != nil:
		return 0, opError(op, key, errs.Cause(err))
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
