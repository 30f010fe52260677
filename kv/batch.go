package kv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Op is one operation of a [Store.Batch].
type Op struct {
	key    string
	value  []byte
	delete bool
	o      options
	err    error

	store   *Store                               // key is relative to it; nil: to the store of the batch
	onWrite func(ctx context.Context, rev int64) // the hook of the handle, or nil
}

// OpPut returns a put of key. Its options are those of [Store.Put].
func OpPut(key string, v []byte, o ...PutOption) Op {
	opts, err := putOptions(o)
	return Op{key: key, value: v, o: opts, err: err}
}

// OpDelete returns a delete of key.
func OpDelete(key string, o ...DeleteOption) Op {
	opts, err := keyOptions(o)
	return Op{key: key, delete: true, o: opts, err: err}
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
//
// Batch costs one RPC for each transaction, and the grants of [WithTTL].
func (s *Store) Batch(ctx context.Context, ops ...Op) (rev int64, err error) {
	ctx, running := s.observe(ctx, "batch")
	defer func() { running.End(err, rev) }()
	ops, err = s.checkBatch(ops)
	if err != nil {
		return 0, opError("batch", "", &BatchError{Err: err})
	}
	b := &batchRun{Store: s, ctx: ctx, ops: ops, results: make([]OpResult, len(ops)), inFlight: make(chan struct{}, 1)}
	if err := b.run(); err != nil {
		return 0, err
	}
	return b.lastRevision, nil
}

// checkBatch checks ops and returns them with keys relative to the namespace of the store.
func (s *Store) checkBatch(ops []Op) ([]Op, error) {
	if s.err != nil {
		return nil, s.err
	}
	ops, err := s.relativeOps(ops)
	if err != nil {
		return nil, err
	}
	for i := range ops {
		abs, err := s.writableKey(ops[i].key)
		if err = errors.Join(err, ops[i].err); err == nil {
			err = errors.Join(s.limits.request((len(abs)+len(ops[i].value))*ops[i].weight()+opOverhead+guardBytes(ops[i].o.guards)), s.limits.ops(ops[i].weight()+ops[i].o.additionalOps()-1, s.limits.TxnOps))
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
		if op.store == nil {
			continue
		}
		if !cloned {
			ops, cloned = slices.Clone(ops), true
		}
		rel, below := strings.CutPrefix(op.store.ns+op.key, s.ns)
		switch {
		case op.store.err != nil:
			return nil, fmt.Errorf("operation %d: %w", i, op.store.err)
		case op.store.core != s.core || !below:
			return nil, fmt.Errorf("operation %d on %s: %w: of a handle that is not below the store", i, errs.Quote(op.store.ns+op.key), errs.Invalid)
		}
		if op.key != "" {
			ops[i].key = rel
		}
	}
	return ops, nil
}

// weight returns how often the operation counts in a transaction, in operations and in bytes.
// Keeping the lease takes a nested transaction that holds the value in both branches.
func (op Op) weight() int {
	if op.o.sameLease {
		return 2
	}
	return 1
}

// ErrNotSent means that an operation of [Store.BatchEach] was not sent because an earlier one
// failed.
var ErrNotSent = errors.New("not sent")

// OpResult is the result of one operation of [Store.BatchEach].
type OpResult struct {
	// Revision is the revision at which the operation was applied. It is 0 if the operation was not
	// applied, or was a delete that found no key. If WithOnce resolved a lost response, such a
	// delete has the revision of its transaction.
	Revision int64
	// Err is nil if the operation was applied. If it matches ErrUnknownOutcome, the operation may
	// have been applied, or may still be; any other error means that it was not and will not be. It
	// is ErrNotSent for operations after a failed one.
	Err error
}

// BatchOption is an option of [Store.BatchEach].
type BatchOption func(*batchSettings)

type batchSettings struct {
	inFlight int
}

// maxInFlight is the largest value of WithInFlight.
const maxInFlight = 64

// WithInFlight sends up to n transactions of a batch concurrently, from 1 to 64. Operations on
// different keys may then be applied in any order; those on one key keep their order. This hides
// the latency of the network and of the servers' disks. Default: 1.
func WithInFlight(n int) BatchOption { return func(s *batchSettings) { s.inFlight = n } }

// BatchEach is like [Store.Batch], but returns the result of each operation and can send several
// transactions concurrently. When a transaction fails, BatchEach sends no further ones and waits
// for those in flight. The error is then a [BatchError] whose Done is the number of operations
// before the first one that is not known to be applied. If the operations are invalid, nothing is
// sent and results is nil. It costs the same RPCs as Batch.
func (s *Store) BatchEach(ctx context.Context, ops []Op, o ...BatchOption) (results []OpResult, err error) {
	ctx, running := s.observe(ctx, "batch")
	var rev int64
	defer func() { running.End(err, rev) }()
	set := batchSettings{inFlight: 1}
	for _, opt := range o {
		if opt != nil {
			opt(&set)
		}
	}
	ops, err = s.checkBatch(ops)
	if set.inFlight < 1 || set.inFlight > maxInFlight {
		err = errors.Join(err, fmt.Errorf("%w: WithInFlight: %d, where 1 to %d are allowed", errs.Invalid, set.inFlight, maxInFlight))
	}
	if err != nil {
		return nil, opError("batch", "", &BatchError{Err: err})
	}
	b := &batchRun{Store: s, ctx: ctx, ops: ops, results: make([]OpResult, len(ops)), inFlight: make(chan struct{}, set.inFlight)}
	err = b.run()
	rev = b.lastRevision
	return b.results, err
}
