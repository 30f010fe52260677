package kv

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Delete deletes key unconditionally and returns the revision of the deletion, or 0 and no error if
// the key does not exist. It costs one RPC. If the response is lost, the outcome is unknown, unless
// [WithOnce] is given.
func (s *Store) Delete(ctx context.Context, key string, o ...DeleteOption) (rev int64, err error) {
	ctx, running := s.observe(ctx, "delete")
	defer func() { running.End(err, rev) }()
	opts, err := keyOptions(o)
	abs, keyErr := s.writableKey(key)
	if err = errors.Join(keyErr, err); err == nil {
		err = s.limits.ops(1+opts.additionalOps(), s.limits.TxnOps)
	}
	if err != nil {
		return 0, s.opError("delete", key, err)
	}
	s.logWrite(ctx, "delete", key, nil)
	del := clientv3.OpDelete("")
	del.WithKeyBytes(abs)
	n, rev, err := s.deleteAll(ctx, "delete", key, []clientv3.Op{del}, opts)
	if n == 0 {
		rev = 0
	}
	return rev, err
}

// DeletePrefix deletes every key that begins with prefix. It returns the number of deleted keys and
// the revision of the deletion, both 0 if there were none. prefix must be "" or end in "/" unless
// WithPartialPrefix is given. It costs one RPC, and deletes all keys or none. On a store without a
// namespace, "" is refused unless WithPartialPrefix is given. With [WithOnce], if a response was
// lost and etcd cannot report the number any more, the number is -1.
func (s *Store) DeletePrefix(ctx context.Context, prefix string, o ...DeleteOption) (n, rev int64, err error) {
	ctx, running := s.observe(ctx, "delete prefix")
	defer func() { running.End(err, rev) }()
	opts, err := deleteOptions(o)
	spans, prefixErr := s.spans(prefix, opts.partial)
	for _, r := range spans {
		if !r.Intersect(keyspace.Under(s.hiddenDir)).Empty() {
			prefixErr = errHidden
		}
	}
	if err = errors.Join(prefixErr, err); err != nil {
		return 0, 0, s.opError("delete prefix", prefix, err)
	}
	s.logWrite(ctx, "delete prefix", prefix, nil)
	dels := make([]clientv3.Op, len(spans))
	for i, r := range spans {
		dels[i] = clientv3.OpDelete(r.From, clientv3.WithRange(r.To))
	}
	n, rev, err = s.deleteAll(ctx, "delete prefix", prefix, dels, opts)
	if n == 0 {
		rev = 0
	}
	return n, rev, err
}

// DeleteAt deletes key if its mod revision is modRevision. Otherwise, also if the key does not
// exist, it returns a [ConflictError]. It costs one RPC. If the response is lost, the request is
// repeated, since it can be applied only once. If the key has been deleted by then, the outcome is
// unknown, because another client may have deleted it. With [WithOnce] the outcome is known.
func (s *Store) DeleteAt(ctx context.Context, key string, modRevision int64, o ...DeleteOption) (rev int64, err error) {
	if modRevision <= 0 {
		return 0, s.opError("delete at", key, fmt.Errorf("%w: revision %d", errs.Invalid, modRevision))
	}
	return s.deleteIf(ctx, "delete at", key, condition{mod: modRevision}, o)
}

// CompareAndDelete deletes key if its value is old. If the value differs or the key does not exist,
// it returns a [ConflictError]. It costs one RPC. If the response is lost, the outcome is unknown,
// unless [WithOnce] is given. Prefer DeleteAt, which also detects that the value was changed and
// changed back.
func (s *Store) CompareAndDelete(ctx context.Context, key string, old []byte, o ...DeleteOption) (rev int64, err error) {
	return s.deleteIf(ctx, "compare and delete", key, condition{byValue: true, value: old}, o)
}

func (s *Store) deleteIf(ctx context.Context, op, key string, cond condition, o []DeleteOption) (rev int64, err error) {
	ctx, running := s.observe(ctx, op)
	defer func() { running.End(err, rev) }()
	opts, err := keyOptions(o)
	abs, keyErr := s.writableKey(key)
	if err = errors.Join(keyErr, err); err == nil {
		err = errors.Join(s.limits.request(len(abs)+len(cond.value)+guardBytes(opts.guards)), s.limits.ops(1+opts.additionalOps(), s.limits.TxnOps))
	}
	if err != nil {
		return 0, s.opError(op, key, err)
	}
	s.logWrite(ctx, op, key, nil)
	del := clientv3.OpDelete("")
	del.WithKeyBytes(abs)
	out, err := s.write(ctx, &mutation{
		op: op, key: string(abs), abs: abs, cond: cond.compares(abs), then: []clientv3.Op{del},
		baseRevision: cond.mod, guards: opts.guards, once: opts.once,
	})
	switch {
	case err != nil:
		return 0, err
	case !out.applied:
		return 0, s.opError(op, key, cond.conflictError(key, out))
	}
	return out.rev, nil
}

// deleteAll deletes without a condition. It sends a plain request instead of a transaction if
// possible.
func (s *Store) deleteAll(ctx context.Context, op, key string, dels []clientv3.Op, o options) (n, rev int64, err error) {
	if len(dels) == 1 && len(o.guards) == 0 && !o.once {
		r, err := retry.Do(ctx, s.engine, retry.Call{Pkg: "kv", Op: op, Dir: s.ns, Key: key}, func(ctx context.Context, _ bool) (clientv3.OpResponse, error) {
			return s.kv.Do(ctx, dels[0])
		})
		if err != nil {
			return 0, 0, err
		}
		return r.Del().Deleted, r.Del().Header.GetRevision(), nil
	}
	out, err := s.write(ctx, &mutation{op: op, key: s.ns + key, then: dels, guards: o.guards, once: o.once})
	if err != nil {
		return 0, 0, err
	}
	if out.resp == nil {
		return s.countDeletedAt(ctx, op, key, dels, out.rev)
	}
	return countDeleted(out.resp.Responses), out.rev, nil
}

// countDeleted returns the number of keys that the deletes of a transaction deleted.
func countDeleted(responses []*pb.ResponseOp) (n int64) {
	for _, one := range responses {
		n += one.GetResponseDeleteRange().GetDeleted()
	}
	return n
}

// countDeletedAt returns the number of keys that were deleted at rev by an attempt whose response
// was lost. It counts the keys at the revision before.
func (s *Store) countDeletedAt(ctx context.Context, op, key string, dels []clientv3.Op, rev int64) (n, at int64, err error) {
	n, err = retry.Do(ctx, s.engine, s.readCall(op, key), func(ctx context.Context, _ bool) (n int64, err error) {
		for _, d := range dels {
			get := clientv3.OpGet("", clientv3.WithRev(rev-1), clientv3.WithCountOnly())
			get.WithKeyBytes(d.KeyBytes())
			get.WithRangeBytes(d.RangeBytes())
			r, err := s.kv.Do(ctx, get)
			if err != nil {
				return 0, err
			}
			n += r.Get().Count
		}
		return n, nil
	})
	if err != nil {
		n = -1 // the keys are deleted, but their number is unknown
	}
	return n, rev, nil
}
