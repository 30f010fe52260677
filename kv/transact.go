package kv

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// maxTxConflicts is the number of conflicts after which Transact gives up.
const maxTxConflicts = 64

// TxFunc is the function of a transaction. It reads and writes with the methods of tx. It may be
// called several times, so it must have no side effects.
type TxFunc = func(ctx context.Context, tx *Tx) error

// Transact runs f as one serializable transaction over keys of the store, and returns the revision
// at which its writes were applied. All reads of f are of one revision. The writes are applied
// together, in one request, and only if nothing that f has read has changed since; otherwise f is
// called again. [docs/transactions.md] describes the protocol.
//
//	_, err := store.Transact(ctx, func(ctx context.Context, tx *kv.Tx) error {
//		from, err := accounts.In(tx).Get("ada")
//		...
//		return accounts.In(tx).Put("ada", Account{Balance: from.Value.Balance - 10})
//	}, kv.WithOnce())
//
// If f returns an error, nothing is written and Transact returns that error. If f writes nothing,
// Transact sends nothing after the reads of f, and rev is the revision of the reads, or 0 if there
// are none; [WithGuard] then costs one check.
//
// A transaction that writes is limited to [Limits].TxnOps: the keys and ranges that f reads, and
// the keys that it writes, each count once. A larger one returns [ErrTooLarge] and is not sent.
// Reads alone are not limited.
//
// After a conflict, f is called again; after every third conflict, Transact first pauses, with
// jitter. After 64 conflicts it returns [ErrConflict]. Transactions of this store, and of those
// derived from it, that read and write the same keys are queued, together with calls of
// [Store.Update], so that they do not conflict with each other. A transaction waits at most 500 ms
// in the queue. If the revision that f reads at is compacted, f is called again after a pause; this
// counts as a conflict, and if it is the 64th, Transact returns [ErrCompacted].
//
// If a response is lost, a transaction that overwrites or deletes a key that it has read is
// repeated until etcd reports its outcome. The outcome is still unknown ([ErrUnknownOutcome]) if
// the history of the keys does not show whether the transaction was applied, for example because
// another client may have written the same values. For all other transactions, the outcome is
// unknown if a response is lost. With [WithOnce] every outcome is known.
//
// A transaction or an Update on the same store inside f returns [ErrInvalid]. It is recognized by
// the context passed to f.
//
// Transact costs the reads of f and one RPC. A conflict costs one more RPC, which also reads again
// what f has read with Get and GetMany. An attempt that has to wait in a queue costs its reads.
// If ctx has no deadline, the default timeout for writes bounds the whole call.
//
// [docs/transactions.md]: https://github.com/etcdkit/etcdkit/blob/main/docs/transactions.md
func (s *Store) Transact(ctx context.Context, f TxFunc, o ...WriteOption) (rev int64, err error) {
	ctx, running := s.observe(ctx, "transact")
	defer func() { running.End(err, rev) }()
	opts, err := collect(o, WriteOption.put, true)
	if err = errors.Join(s.err, err); err == nil {
		err = s.checkFunc(ctx, f == nil)
	}
	if err != nil {
		return 0, s.opError("transact", "", err)
	}
	ctx, cancel := s.withDefaultTimeout(ctx)
	defer cancel()
	t := &transaction{
		Store: s, f: f, opts: opts, leases: callLeases{core: s.core, op: "transact", key: s.ns}, queues: heldQueues{queues: &s.keyQueues},
	}
	defer t.queues.release()
	return t.run(ctx)
}

// errNestedTransact is the error for a transaction or an Update inside another transaction on the
// same store.
var errNestedTransact = fmt.Errorf("%w: inside the function of a transaction on the same store", errs.Invalid)

// txContext is the key of a context value that marks the context passed to a TxFunc.
type txContext struct{ *core }

// insideTransact reports whether ctx was passed to the function of a transaction on the store, or
// on a store derived from it or from which it was derived.
func (c *core) insideTransact(ctx context.Context) bool { return ctx.Value(txContext{c}) != nil }

// checkFunc returns an error for a call of Transact or Update without a function, inside the
// function of another transaction, or whose context has ended.
func (c *core) checkFunc(ctx context.Context, missing bool) error {
	switch {
	case missing:
		return fmt.Errorf("%w: no function", errs.Invalid)
	case c.insideTransact(ctx):
		return errNestedTransact
	}
	return retry.ContextError(ctx)
}

// transaction is the state of one call of Transact.
type transaction struct {
	*Store

	f      TxFunc
	opts   options
	leases callLeases
	queues heldQueues

	snapshot *snapshot // the reads of the last refused request, if still usable
	conflict string    // the key that the last refused request found changed, if known
}

// snapshot holds the states of some keys at a revision.
type snapshot struct {
	rev  int64
	keys map[string]*keyValue // by absolute key; nil: does not exist
}

func (t *transaction) run(ctx context.Context) (int64, error) {
	backoff := retry.Policy{BaseDelay: minConflictBackoff, MaxDelay: maxConflictBackoff}.Backoff()
	backoff.Reset()
	conflicts := 0
	for attempt := 1; ; attempt++ {
		tx := t.newTx(ctx, attempt)
		err := tx.runFunc(t.f)
		switch {
		case errors.Is(tx.err, errs.Compacted): // even if f ignores it
			err = tx.err
		case err != nil:
			t.leases.revokeUnused(ctx, err, nil)
			return 0, err
		case len(tx.writes) == 0:
			t.leases.revokeUnused(ctx, nil, nil)
			return t.finishReadOnly(ctx, tx)
		default:
			if err := tx.checkLimits(); err != nil {
				err = t.opError("transact", "", err)
				t.leases.revokeUnused(ctx, err, nil)
				return 0, err
			}
			if t.queues.acquire(ctx, tx.readWriteKeys()) {
				t.snapshot = nil
				continue // the reads are outdated
			}
			rev, refused, err := t.commit(ctx, tx)
			if !refused {
				return rev, err
			}
		}
		t.keyQueues.conflicts.Add(1)
		conflicts++
		if conflicts == maxTxConflicts {
			if err == nil {
				err = t.conflictError(conflicts)
			}
			t.leases.revokeUnused(ctx, err, nil)
			return 0, err
		}
		if err == nil && conflicts%conflictsPerBackoff != 0 {
			continue
		}
		t.snapshot = nil // outdated after the pause
		if err := retry.Sleep(ctx, backoff.NextBackOff()); err != nil {
			err = t.opError("transact", "", fmt.Errorf("%w: %w", ErrConflict, err))
			t.leases.revokeUnused(ctx, err, nil)
			return 0, err
		}
	}
}

func (t *transaction) conflictError(n int) error {
	err := fmt.Errorf("%w: %d times in a row", ErrConflict, n)
	if t.conflict != "" {
		err = fmt.Errorf("%w, last key %s", err, errs.Quote(t.conflict))
	}
	return t.opError("transact", "", err)
}

// commit sends the writes of tx. refused reports that a key or range that was read has changed,
// which is not an error.
func (t *transaction) commit(ctx context.Context, tx *Tx) (rev int64, refused bool, err error) {
	for first := true; ; first = false {
		var m *mutation
		m, err = tx.mutation(ctx)
		if err != nil {
			break
		}
		var out outcome
		out, err = t.write(ctx, m)
		switch {
		case err == nil && out.applied:
			t.leases.revokeUnused(ctx, nil, tx.ttls())
			tx.notify(ctx, out.rev)
			return out.rev, false, nil
		case err == nil:
			t.snapshot = tx.snapshotOf(out)
			t.conflict = tx.changedKey(t.snapshot)
			return 0, true, nil
		}
		if !first || !t.leases.dropMissing(err) {
			break
		}
	}
	t.leases.revokeUnused(ctx, err, tx.ttls())
	if errors.Is(err, ErrUnknownOutcome) {
		tx.notify(ctx, 0)
	}
	return 0, false, err
}

// finishReadOnly ends a transaction that writes nothing.
func (t *transaction) finishReadOnly(ctx context.Context, tx *Tx) (int64, error) {
	if len(t.opts.guards) == 0 {
		return tx.Revision(), nil
	}
	check := clientv3.OpTxn((&mutation{guards: t.opts.guards}).compares(nil), nil, guardOps(t.opts.guards))
	resp, err := retry.Do(ctx, t.engine, t.readCall("transact", ""), func(ctx context.Context, _ bool) (*clientv3.TxnResponse, error) {
		r, err := t.kv.Do(ctx, check)
		return r.Txn(), err
	})
	if err != nil {
		return 0, err
	}
	if !resp.Succeeded {
		return 0, t.opError("transact", "", guardError(t.opts.guards, resp.Responses))
	}
	if rev := tx.Revision(); rev != 0 {
		return rev, nil
	}
	return resp.Header.GetRevision(), nil
}
