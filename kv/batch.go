package kv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Op is one operation of a [Store.Batch].
type Op struct {
	key    string
	value  []byte
	delete bool
	o      options
	bad    error
}

// OpPut is a put. Its options are those of [Store.Put]; WithTTL grants one lease for all operations of the batch that
// have the same TTL.
func OpPut(key string, v []byte, o ...PutOption) Op {
	opts, err := putOptions(o)
	return Op{key: key, value: v, o: opts, bad: err}
}

// OpDelete is the delete of a key.
func OpDelete(key string, o ...DeleteOption) Op {
	opts, err := keyOptions(o)
	return Op{key: key, delete: true, o: opts, bad: err}
}

// Batch carries out ops in their order, in as few transactions as [Limits] allow, and returns the revision of the last.
// Without operations it does nothing and returns 0. It is not atomic: each transaction is, and when one fails the error is a [BatchError] that says how many operations
// are applied; go on with ops[Done:]. For all or nothing, use [Store.Txn].
//
// A transaction ends early where the next operation is on a key that it has already, or has other guards. All operations
// are checked before the first is sent. Without a deadline in ctx, each transaction is given the default. A lost answer leaves the outcome of that transaction unknown, unless one of its
// operations has [WithOnce], which then covers them all.
func (s *Store) Batch(ctx context.Context, ops ...Op) (rev int64, err error) {
	if err := s.checkBatch(ctx, ops); err != nil {
		return 0, fail("batch", "", &BatchError{Err: err})
	}
	return s.batch(ctx, ops)
}

func (s *Store) checkBatch(ctx context.Context, ops []Op) error {
	switch {
	case ctx == nil:
		return fmt.Errorf("%w: nil context", errs.Invalid)
	case s.bad != nil:
		return s.bad
	}
	for i := range ops {
		abs, err := s.writable(ops[i].key)
		if err = errors.Join(err, ops[i].bad); err == nil {
			err = errors.Join(s.limits.request((len(abs)+len(ops[i].value))*ops[i].weight()+opOverhead), s.limits.ops(ops[i].weight()+ops[i].o.extraOps()-1, s.limits.TxnOps))
		}
		if err != nil {
			return fmt.Errorf("operation %d on %s: %w", i, errs.Quote(ops[i].key), err)
		}
	}
	return nil
}

func (s *Store) batch(ctx context.Context, ops []Op) (rev int64, err error) {
	leases := make(map[time.Duration]clientv3.LeaseID)
	for done := 0; done < len(ops); {
		n := s.chunk(ops[done:])
		rev, err = s.applyChunk(ctx, ops[done:done+n], leases)
		if err != nil {
			return 0, &errs.Error{
				Pkg: "kv", Op: "batch", Key: ops[done].key, Unchanged: done == 0 && errs.Unchanged(err),
				Err: &BatchError{Done: done, Err: reason(err)},
			}
		}
		done += n
	}
	return rev, nil
}

// reason is err without the words for the call, which the batch has already.
func reason(err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e.Err
	}
	return err
}

// What a transaction may add to the bytes of its keys and values, at the most: an operation that would come too close to
// the limit starts the next one.
const (
	batchOverhead = 64
	batchSlack    = 1 << 10
)

// chunk is how many of ops fit into one transaction.
func (s *Store) chunk(ops []Op) int {
	size, count := 0, 0
	seen := make(map[string]bool)
	once := false
	for i, op := range ops {
		size += (len(s.ns)+len(op.key)+len(op.value))*op.weight() + batchOverhead
		count += op.weight()
		once = once || op.o.once
		extra := options{guards: op.o.guards, once: once}
		switch {
		case i == 0:
		case seen[op.key], s.limits.request(size+batchSlack) != nil, count+extra.extraOps()-1 > s.limits.TxnOps, !sameGuards(ops[0].o.guards, op.o.guards):
			return i
		}
		seen[op.key] = true
	}
	return len(ops)
}

// weight is what the operation counts for in a transaction, in operations and in bytes: keeping the lease takes a nested
// one with the value in both branches.
func (op Op) weight() int {
	if op.o.sameLease {
		return 2
	}
	return 1
}

func sameGuards(a, b []Guard) bool {
	return slices.EqualFunc(a, b, func(a, b Guard) bool {
		return slices.EqualFunc(a.compares, b.compares, func(a, b clientv3.Cmp) bool {
			return proto.Equal(a.GetCompare(), b.GetCompare())
		})
	})
}

// applyChunk sends one transaction.
func (s *Store) applyChunk(ctx context.Context, ops []Op, leases map[time.Duration]clientv3.LeaseID) (rev int64, err error) {
	m := &mutation{op: "batch", key: ops[0].key, guards: ops[0].o.guards, then: make([]clientv3.Op, 0, len(ops)+1)}
	var granted []clientv3.LeaseID
	defer func() {
		if err != nil && !errors.Is(err, ErrUnknownOutcome) {
			for _, id := range granted {
				s.revoke(ctx, id)
			}
		}
	}()
	for i := range ops {
		op, fresh, err := s.batchOp(ctx, &ops[i], leases)
		granted = append(granted, fresh...)
		if err != nil {
			return 0, err
		}
		m.then = append(m.then, op)
		m.once = m.once || ops[i].o.once
		m.leased = m.leased || ops[i].o.leaseSet
		s.logWrite(ctx, "batch", ops[i].key, ops[i].value)
	}
	out, err := s.write(ctx, m)
	return out.rev, err
}

// batchOp is the operation as etcd takes it, with the lease that it needs.
func (s *Store) batchOp(ctx context.Context, op *Op, leases map[time.Duration]clientv3.LeaseID) (out clientv3.Op, granted []clientv3.LeaseID, err error) {
	abs, err := s.absolute(op.key)
	if err != nil {
		return out, nil, err
	}
	if op.delete {
		out = clientv3.OpDelete("")
		out.WithKeyBytes(abs)
		return out, nil, nil
	}
	o := op.o
	if o.ttlSet {
		id, ok := leases[o.ttl]
		if !ok {
			if id, _, err = s.grant(ctx, "batch", op.key, o.ttl); err != nil {
				return out, nil, err
			}
			leases[o.ttl] = id
			granted = append(granted, id)
		}
		o.lease = id
	}
	out = putOp(abs, op.value, o)
	if o.sameLease {
		out = keepLease(abs, out)
	}
	return out, granted, nil
}
