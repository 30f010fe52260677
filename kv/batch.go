package kv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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

	typed *Store                               // key is relative to its namespace; nil: to that of the batch
	wrote func(ctx context.Context, rev int64) // the hook of that handle, or nil
}

// OpPut returns a put of key. Its options are those of [Store.Put].
func OpPut(key string, v []byte, o ...PutOption) Op {
	opts, err := putOptions(o)
	return Op{key: key, value: v, o: opts, bad: err}
}

// OpDelete returns a delete of key.
func OpDelete(key string, o ...DeleteOption) Op {
	opts, err := keyOptions(o)
	return Op{key: key, delete: true, o: opts, bad: err}
}

// Batch applies ops in order, in as few transactions as [Limits] allow, and returns the revision of
// the last one. Without operations it sends nothing and returns 0. Batch is not atomic: only each
// transaction is. If a transaction fails, the error is a [BatchError] that holds the number of
// applied operations; to resume, pass ops[Done:]. Use [Store.Transact] or [Store.Txn] to apply all
// operations or none, and [Store.BatchEach] for the result of each operation or to send several
// transactions at a time.
//
// A new transaction starts before an operation on a key that the current transaction already
// writes, or with other guards. All operations are checked before the first is sent. If ctx has no
// deadline, the default applies to each transaction. If a response is lost, the outcome of that
// transaction is unknown, unless one of its operations has [WithOnce], which then covers the whole
// transaction.
func (s *Store) Batch(ctx context.Context, ops ...Op) (rev int64, err error) {
	ctx, running := s.observe(ctx, "batch")
	defer func() { running.End(err, rev) }()
	ops, err = s.checkBatch(ctx, ops)
	if err != nil {
		return 0, fail("batch", "", &BatchError{Err: err})
	}
	b := &batchRun{Store: s, ctx: ctx, ops: ops, results: make([]OpResult, len(ops)), free: make(chan struct{}, 1)}
	if err := b.run(); err != nil {
		return 0, err
	}
	return b.last, nil
}

// checkBatch checks ops and returns them with keys relative to the namespace of the store.
func (s *Store) checkBatch(ctx context.Context, ops []Op) ([]Op, error) {
	switch {
	case ctx == nil:
		return nil, fmt.Errorf("%w: nil context", errs.Invalid)
	case s.bad != nil:
		return nil, s.bad
	}
	ops, err := s.relativeOps(ops)
	if err != nil {
		return nil, err
	}
	for i := range ops {
		abs, err := s.writable(ops[i].key)
		if err = errors.Join(err, ops[i].bad); err == nil {
			err = errors.Join(s.limits.request((len(abs)+len(ops[i].value))*ops[i].weight()+opOverhead+guardBytes(ops[i].o.guards)), s.limits.ops(ops[i].weight()+ops[i].o.extraOps()-1, s.limits.TxnOps))
		}
		if err != nil {
			return nil, fmt.Errorf("operation %d on %s: %w", i, errs.Quote(s.ns+ops[i].key), err)
		}
	}
	return ops, nil
}

// relativeOps returns ops, with the keys of typed handles made relative to the namespace of the
// store.
func (s *Store) relativeOps(ops []Op) ([]Op, error) {
	cloned := false
	for i := range ops {
		op := ops[i]
		if op.typed == nil {
			continue
		}
		if !cloned {
			ops, cloned = slices.Clone(ops), true
		}
		rel, below := strings.CutPrefix(op.typed.ns+op.key, s.ns)
		switch {
		case op.typed.bad != nil:
			return nil, fmt.Errorf("operation %d: %w", i, op.typed.bad)
		case op.typed.core != s.core || !below:
			return nil, fmt.Errorf("operation %d on %s: %w: of a handle that is not below the store", i, errs.Quote(op.typed.ns+op.key), errs.Invalid)
		}
		if op.key != "" {
			ops[i].key = rel
		}
	}
	return ops, nil
}

// The size of an operation beside its key and value, and the margin below the limit of a request.
// Both are upper bounds: an operation that would come too close to the limit starts the next
// transaction.
const (
	batchOverhead = 64
	batchSlack    = 1 << 10
)

// chunk returns how many of ops fit into one transaction.
func (s *Store) chunk(ops []Op) int {
	size, count := guardBytes(ops[0].o.guards), 0
	for _, g := range ops[0].o.guards {
		size += 2 * batchOverhead * len(g.compares)
	}
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

// weight returns how often the operation counts in a transaction, in operations and in bytes.
// Keeping the lease takes a nested transaction that holds the value in both branches.
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

// applyChunk sends one transaction. It sends it a second time if a shared lease was revoked.
func (s *Store) applyChunk(ctx context.Context, ops []Op) (out outcome, err error) {
	for first := true; ; first = false {
		leases, err := s.batchLeases(ctx, ops)
		if err != nil {
			return outcome{}, err
		}
		out, err := s.commitChunk(ctx, ops, leases)
		if again := s.release(ctx, err, slices.Collect(maps.Values(leases))...); !again || !first {
			return out, err
		}
	}
}

// batchLeases returns one lease for each TTL in ops.
func (s *Store) batchLeases(ctx context.Context, ops []Op) (leases map[time.Duration]*ttlLease, err error) {
	writes := make(map[time.Duration]int)
	for i := range ops {
		if ops[i].o.ttlSet {
			writes[ops[i].o.ttl]++
		}
	}
	leases = make(map[time.Duration]*ttlLease, len(writes))
	if len(writes) == 0 {
		return leases, nil
	}
	bounded, stop := s.bounded(ctx)
	defer stop()
	for ttl, n := range writes {
		l, err := s.ttlLease(bounded, "batch", s.ns+ops[0].key, ttl, n)
		if err != nil {
			s.release(ctx, err, slices.Collect(maps.Values(leases))...)
			return nil, err
		}
		leases[ttl] = l
	}
	return leases, nil
}

// commitChunk sends one transaction with the given leases.
func (s *Store) commitChunk(ctx context.Context, ops []Op, leases map[time.Duration]*ttlLease) (outcome, error) {
	m := &mutation{op: "batch", key: s.ns + ops[0].key, guards: ops[0].o.guards, then: make([]clientv3.Op, len(ops))}
	for i := range ops {
		o := ops[i].o
		if o.ttlSet {
			o.lease = leases[o.ttl].id
		}
		m.then[i] = s.batchOp(&ops[i], o)
		m.once = m.once || o.once
		m.leased = m.leased || o.lease != 0
		s.logWrite(ctx, "batch", ops[i].key, ops[i].value)
	}
	return s.write(ctx, m)
}

// batchOp returns the operation in the form of client/v3.
func (s *Store) batchOp(op *Op, o options) clientv3.Op {
	abs := []byte(s.ns + op.key)
	if op.delete {
		del := clientv3.OpDelete("")
		del.WithKeyBytes(abs)
		return del
	}
	put := putOp(abs, op.value, o)
	if o.sameLease {
		put = keepLease(abs, put)
	}
	return put
}
