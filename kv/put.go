package kv

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Put writes key unconditionally and returns the revision of the write. It costs one RPC.
//
// As in etcd, Put detaches the key from its lease, unless WithSameLease, WithLease or WithTTL is
// given. If the response is lost, the outcome is unknown, and Put is not repeated: the error
// matches [ErrUnknownOutcome]. With [WithOnce] the outcome is known.
func (s *Store) Put(ctx context.Context, key string, v []byte, o ...PutOption) (rev int64, err error) {
	return s.put(ctx, "put", key, v, unconditional, o)
}

// Create writes key if it does not exist. Otherwise it returns [ErrExists]. It costs one RPC.
//
// If the response is lost, the outcome is unknown, because the key may have been created and
// deleted again. With [WithOnce] the outcome is known.
func (s *Store) Create(ctx context.Context, key string, v []byte, o ...PutOption) (rev int64, err error) {
	return s.put(ctx, "create", key, v, ifAbsent, o)
}

// Replace writes key if its mod revision is modRevision. Otherwise, also if the key does not exist,
// it returns a [ConflictError]. It costs one RPC. If a response is lost, the request is repeated,
// since it can be applied only once. The outcome is still unknown if the write that followed
// modRevision has the same value, if the key was deleted meanwhile, or if the history needed to
// decide is compacted, longer than 16 changes or unreadable. With [WithOnce] the outcome is known.
func (s *Store) Replace(ctx context.Context, key string, v []byte, modRevision int64, o ...PutOption) (rev int64, err error) {
	if modRevision <= 0 {
		return 0, s.opError("replace", key, fmt.Errorf("%w: revision %d", errs.Invalid, modRevision))
	}
	return s.put(ctx, "replace", key, v, condition{mod: modRevision}, o)
}

// CompareAndSwap writes key if its value is old. If the value differs or the key does not exist, it
// returns a [ConflictError]. It costs one RPC. The key keeps its lease, unless an option says
// otherwise. A value can occur again, so the outcome is unknown if the response is lost, unless
// [WithOnce] is given. Prefer Replace.
//
//nolint:predeclared,gocritic // the names used in sync/atomic
func (s *Store) CompareAndSwap(ctx context.Context, key string, old, new []byte, o ...PutOption) (rev int64, err error) {
	return s.put(ctx, "compare and swap", key, new, condition{byValue: true, value: old}, o)
}

// condition is the condition of a write.
type condition struct {
	absent  bool
	mod     int64 // the required mod revision, if positive
	byValue bool
	value   []byte
}

//nolint:gochecknoglobals // constants of a struct type
var (
	unconditional = condition{}
	ifAbsent      = condition{absent: true}
)

// requiresKey reports whether the condition can hold only if the key exists.
func (c condition) requiresKey() bool { return c.mod > 0 || c.byValue }

// compares returns the condition on key as etcd comparisons.
func (c condition) compares(key []byte) []clientv3.Cmp {
	var cmp clientv3.Cmp
	switch {
	case c.absent:
		cmp = clientv3.Compare(clientv3.CreateRevision(""), "=", 0)
	case c.mod > 0:
		cmp = clientv3.Compare(clientv3.ModRevision(""), "=", c.mod)
	case c.byValue:
		cmp = clientv3.Compare(clientv3.Value(""), "=", string(c.value))
	default:
		return nil
	}
	cmp.WithKeyBytes(key)
	return []clientv3.Cmp{cmp}
}

// conflictError returns the error for a condition that did not hold.
func (c condition) conflictError(key string, out outcome) error {
	if c.absent {
		return ErrExists
	}
	return &ConflictError{Key: key, Want: c.mod, Have: out.cur.GetModRevision()}
}

// put implements all writes of a single value except Update.
func (s *Store) put(ctx context.Context, op, key string, v []byte, cond condition, opts []PutOption) (rev int64, err error) {
	ctx, running := s.observe(ctx, op)
	defer func() { running.End(err, rev) }()
	o, err := putOptions(opts)
	o.sameLease = o.sameLease || cond.byValue && !o.ttlSet && !o.leaseSet
	abs, keyErr := s.writableKey(key)
	if err = errors.Join(keyErr, err); err == nil {
		size := len(abs) + len(v)
		if o.sameLease && !cond.requiresKey() {
			size *= 2 // in both branches
		}
		err = errors.Join(s.limits.request(size+len(cond.value)+guardBytes(o.guards)), s.limits.ops(1+o.additionalOps(), s.limits.TxnOps))
	}
	if err != nil {
		return 0, s.opError(op, key, err)
	}
	s.logWrite(ctx, op, key, v)
	if o.ttlSet {
		return s.putTTL(ctx, op, key, abs, v, cond, o)
	}
	return s.putLease(ctx, op, key, abs, v, cond, o)
}

// putTTL writes under a lease that ends after the TTL.
func (s *Store) putTTL(ctx context.Context, op, key string, abs, v []byte, cond condition, o options) (int64, error) {
	ctx, cancel := s.withDefaultTimeout(ctx)
	defer cancel()
	for first := true; ; first = false {
		l, err := s.leaseForTTL(ctx, op, string(abs), o.ttl, 1)
		if err != nil {
			return 0, err
		}
		o.lease = l.id
		rev, err := s.putLease(ctx, op, key, abs, v, cond, o)
		if repeatable := s.releaseLeases(ctx, err, l); !repeatable || !first {
			return rev, err
		}
	}
}

// putLease writes under the lease in o.
func (s *Store) putLease(ctx context.Context, op, key string, abs, v []byte, cond condition, o options) (int64, error) {
	then := putOp(abs, v, o)
	cmps := cond.compares(abs)
	if cmps == nil && len(o.guards) == 0 && !o.once && !o.sameLease {
		return s.sendPut(ctx, op, key, then)
	}
	m := &mutation{op: op, key: string(abs), abs: abs, cond: cmps, then: []clientv3.Op{then}, baseRevision: cond.mod, value: v, guards: o.guards, once: o.once, hasLease: o.lease != 0}
	if v == nil {
		m.value = []byte{} // nil means delete
	}
	if o.sameLease && !cond.requiresKey() {
		m.then = []clientv3.Op{keepLease(abs, then)}
	}
	out, err := s.write(ctx, m)
	switch {
	case err != nil:
		return 0, err
	case !out.applied:
		return 0, s.opError(op, key, cond.conflictError(key, out))
	}
	return out.rev, nil
}

// putOp returns a put of a value under the lease in o.
func putOp(abs, v []byte, o options) clientv3.Op {
	var op clientv3.Op
	switch {
	case o.lease != 0:
		op = clientv3.OpPut("", "", clientv3.WithLease(o.lease))
	case o.sameLease:
		op = clientv3.OpPut("", "", clientv3.WithIgnoreLease())
	default:
		op = clientv3.OpPut("", "")
	}
	op.WithKeyBytes(abs)
	op.WithValueBytes(v)
	return op
}

// keepLease returns a transaction that keeps the lease if the key exists, and puts without a lease
// otherwise. etcd refuses a put that keeps the lease of a key that does not exist.
func keepLease(abs []byte, putKeepingLease clientv3.Op) clientv3.Op {
	exists := clientv3.Compare(clientv3.CreateRevision(""), ">", 0)
	exists.WithKeyBytes(abs)
	putNew := putOp(abs, putKeepingLease.ValueBytes(), options{})
	return clientv3.OpTxn([]clientv3.Cmp{exists}, []clientv3.Op{putKeepingLease}, []clientv3.Op{putNew})
}

// sendPut sends one operation without a transaction.
func (s *Store) sendPut(ctx context.Context, op, key string, put clientv3.Op) (int64, error) {
	return retry.Do(ctx, s.engine, retry.Call{Pkg: "kv", Op: op, Dir: s.ns, Key: key}, func(ctx context.Context, _ bool) (int64, error) {
		r, err := s.kv.Do(ctx, put)
		if err != nil {
			return 0, err
		}
		return r.Put().Header.GetRevision(), nil
	})
}

// Touch attaches key to a new lease that ends after ttl, as [WithTTL] does, and returns the
// revision of the write, or [ErrNotFound]. The value is kept and not sent; watchers receive a put.
// Touch costs a grant and one RPC; see [WithTTL].
//
// If the response is lost, the outcome is unknown, unless [WithOnce] is given.
func (s *Store) Touch(ctx context.Context, key string, ttl time.Duration, o ...WriteOption) (rev int64, err error) {
	ctx, running := s.observe(ctx, "touch")
	defer func() { running.End(err, rev) }()
	opts, err := collect(o, WriteOption.put, true)
	abs, keyErr := s.writableKey(key)
	if err = errors.Join(keyErr, err, wire.CheckTTL(ttl)); err == nil {
		err = errors.Join(s.limits.request(len(abs)+guardBytes(opts.guards)), s.limits.ops(1+opts.additionalOps(), s.limits.TxnOps))
	}
	if err != nil {
		return 0, s.opError("touch", key, err)
	}
	ctx, cancel := s.withDefaultTimeout(ctx)
	defer cancel()
	s.logWrite(ctx, "touch", key, nil)
	leases := callLeases{core: s.core, op: "touch", key: string(abs)}
	for first := true; ; first = false {
		rev, err = s.touch(ctx, key, abs, ttl, &leases, opts)
		if err == nil || !first || !leases.dropMissing(err) {
			leases.revokeUnused(ctx, err, map[time.Duration]int{ttl: 1})
			return rev, err
		}
	}
}

func (s *Store) touch(ctx context.Context, key string, abs []byte, ttl time.Duration, leases *callLeases, o options) (int64, error) {
	lease, err := leases.lease(ctx, ttl, 1)
	if err != nil {
		return 0, err
	}
	exists := clientv3.Compare(clientv3.CreateRevision(""), ">", 0)
	exists.WithKeyBytes(abs)
	put := clientv3.OpPut("", "", clientv3.WithIgnoreValue(), clientv3.WithLease(lease))
	put.WithKeyBytes(abs)
	out, err := s.write(ctx, &mutation{
		op: "touch", key: string(abs), abs: abs, cond: []clientv3.Cmp{exists}, then: []clientv3.Op{put},
		guards: o.guards, once: o.once, hasLease: true,
	})
	switch {
	case err != nil:
		return 0, err
	case !out.applied:
		return 0, s.opError("touch", key, ErrNotFound)
	}
	return out.rev, nil
}
