package kv

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// maxTxConflicts is how many conflicts Transact tolerates.
const maxTxConflicts = 64

// TxFunc is the function of a transaction. It reads and writes with the methods of tx. It may be
// called several times, so it must have no effects of its own.
type TxFunc = func(ctx context.Context, tx *Tx) error

// Transact runs f as one serializable transaction over keys of the store, and returns the revision
// at which its writes were applied. All reads of f are of one revision. The writes are applied
// together, in one request, and only if nothing that f has read was changed since; otherwise f is
// called again. docs/transactions.md describes the protocol.
//
//	_, err := store.Transact(ctx, func(ctx context.Context, tx *kv.Tx) error {
//		from, err := accounts.In(tx).Get("ada")
//		...
//		return accounts.In(tx).Put("ada", Account{Balance: from.Value.Balance - 10})
//	}, kv.WithOnce())
//
// If f returns an error, nothing is written and Transact returns that error. If f writes nothing,
// nothing is sent after its reads, and rev is the revision of the reads, or 0 if there are none;
// [WithGuard] then costs one check.
//
// A transaction that writes is limited to [Limits].TxnOps: the keys and ranges that f has read, and
// the keys that it writes, each count once. One that is larger is refused with [ErrTooLarge] before
// it is sent. Reads alone are not limited.
//
// Conflicts are repeated, from the third on after a pause with jitter; after 64 of them the error
// is [ErrConflict]. Transactions of this store, and of those made from it, that write the same keys
// take turns, also with [Store.Update], so that they do not conflict with each other. If a revision
// is compacted while f reads at it, f is called again.
//
// After a lost answer, a transaction that overwrites or deletes a key that it has read is repeated
// until etcd says yes or no. The outcome is still unknown ([ErrUnknownOutcome]) if the keys then
// hold what f has written, since that may be another client's write, and in all other transactions.
// [WithOnce] makes every outcome known.
//
// A transaction inside f on the same store, or an Update, is [ErrInvalid]; it is recognized by the
// context that f is given.
//
// Transact costs the reads of f and one RPC. A conflict costs one more RPC, which also reads again
// what f has read with Get and GetMany; an attempt that had to take turns costs its reads. Without
// a deadline in ctx, the whole call is given the default for writes.
func (s *Store) Transact(ctx context.Context, f TxFunc, o ...WriteOption) (rev int64, err error) {
	opts, err := collect(o, WriteOption.put, true)
	if err = errors.Join(s.bad, err); err == nil {
		switch {
		case ctx == nil:
			err = fmt.Errorf("%w: nil context", errs.Invalid)
		case f == nil:
			err = fmt.Errorf("%w: no function", errs.Invalid)
		case s.insideTransact(ctx):
			err = errNestedTransact
		default:
			err = retry.ContextError(ctx)
		}
	}
	if err != nil {
		return 0, s.fail("transact", "", err)
	}
	ctx, stop := s.bounded(ctx)
	defer stop()
	t := &transaction{
		Store: s, f: f, o: opts, leases: callLeases{core: s.core, op: "transact", key: s.ns}, turns: heldTurns{all: &s.turns},
	}
	defer t.turns.release()
	return t.run(ctx)
}

// errNestedTransact refuses a transaction, or an Update, inside of another on the same store.
var errNestedTransact = fmt.Errorf("%w: inside the function of a transaction on the same store", errs.Invalid)

// txContext marks the context that the function of a transaction is given.
type txContext struct{ *core }

// insideTransact reports whether ctx is that of a transaction on the store, or on one made from it.
func (c *core) insideTransact(ctx context.Context) bool { return ctx.Value(txContext{c}) != nil }

// transaction is one call of Transact.
type transaction struct {
	*Store

	f      TxFunc
	o      options
	leases callLeases
	turns  heldTurns

	snapshot *snapshot // what the last refusal has read, if the next attempt can begin with it
	conflict string    // the key that the last refusal found changed, if that is known
}

// snapshot is what some keys were at a revision.
type snapshot struct {
	rev  int64
	keys map[string]*keyValue // by absolute key; nil: absent
}

func (t *transaction) run(ctx context.Context) (int64, error) {
	pause := retry.Policy{BaseDelay: updatePauseMin, MaxDelay: updatePauseMax}.Backoff()
	pause.Reset()
	conflicts := 0
	for attempt := 1; ; attempt++ {
		tx := t.begin(ctx, attempt)
		err := tx.call(t.f)
		switch {
		case errors.Is(tx.err, errs.Compacted): // whatever f makes of it
			err = tx.err
		case err != nil:
			t.leases.finish(ctx, err, nil)
			return 0, err
		case len(tx.writes) == 0:
			t.leases.finish(ctx, nil, nil)
			return t.readOnly(ctx, tx)
		default:
			if err := tx.checkLimits(); err != nil {
				err = t.fail("transact", "", err)
				t.leases.finish(ctx, err, nil)
				return 0, err
			}
			if t.turns.take(ctx, tx.contended()) {
				t.snapshot = nil
				continue // what was read is old by now
			}
			rev, refused, err := t.commit(ctx, tx)
			if !refused {
				return rev, err
			}
		}
		t.Store.turns.conflicts.Add(1)
		conflicts++
		if conflicts == maxTxConflicts {
			if err == nil {
				err = t.conflictError(conflicts)
			}
			t.leases.finish(ctx, err, nil)
			return 0, err
		}
		if err == nil && conflicts%updateAtOnce != 0 {
			continue
		}
		t.snapshot = nil // by the end of a pause it is old
		if err := sleep(ctx, pause.NextBackOff()); err != nil {
			err = t.fail("transact", "", fmt.Errorf("%w: %w", ErrConflict, err))
			t.leases.finish(ctx, err, nil)
			return 0, err
		}
	}
}

func (t *transaction) conflictError(n int) error {
	err := fmt.Errorf("%w: %d times in a row", ErrConflict, n)
	if t.conflict != "" {
		err = fmt.Errorf("%w, last key %s", err, errs.Quote(t.conflict))
	}
	return t.fail("transact", "", err)
}

// commit sends what tx has collected. refused reports that something which was read has changed,
// which is no error.
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
			t.leases.finish(ctx, nil, tx.ttls())
			tx.notify(ctx, out.rev)
			return out.rev, false, nil
		case err == nil:
			t.snapshot = tx.snapshotOf(out)
			t.conflict = tx.changedKey(t.snapshot)
			return 0, true, nil
		}
		if !first || !t.leases.replace(err) {
			break
		}
	}
	t.leases.finish(ctx, err, tx.ttls())
	if errors.Is(err, ErrUnknownOutcome) {
		tx.notify(ctx, 0)
	}
	return 0, false, err
}

// readOnly ends a transaction that writes nothing.
func (t *transaction) readOnly(ctx context.Context, tx *Tx) (int64, error) {
	if len(t.o.guards) == 0 {
		return tx.Revision(), nil
	}
	check := clientv3.OpTxn((&mutation{guards: t.o.guards}).compares(nil), nil, guardOps(t.o.guards))
	resp, err := retry.Do(ctx, t.engine, t.read("transact", ""), func(ctx context.Context, _ bool) (*clientv3.TxnResponse, error) {
		r, err := t.kv.Do(ctx, check)
		return r.Txn(), err
	})
	if err != nil {
		return 0, err
	}
	if !resp.Succeeded {
		return 0, t.fail("transact", "", lostGuards(t.o.guards, resp.Responses))
	}
	if rev := tx.Revision(); rev != 0 {
		return rev, nil
	}
	return resp.Header.GetRevision(), nil
}

// maxTurnWait bounds how long a transaction waits for others of this process. Turns only save
// conflicts: one that gets none goes on without.
const maxTurnWait = 500 * time.Millisecond

// heldTurns is the turns that a transaction holds, on keys that it has read and writes.
type heldTurns struct {
	all  *turns
	held map[string]*turn
	off  bool // waiting took too long
}

// take takes the turns on keys, which are sorted, in the place of those held. It reports whether it
// had to wait, so that others may have written the keys meanwhile.
func (h *heldTurns) take(ctx context.Context, keys []string) (waited bool) {
	if h.off || h.holds(keys) {
		return false
	}
	h.release()
	h.held = make(map[string]*turn, len(keys))
	deadline := time.Now().Add(maxTurnWait)
	for _, key := range keys {
		one := h.all.tryTake(key)
		if one == nil {
			waited = true
			if one = h.await(ctx, key, deadline); one == nil {
				h.off = true
				h.release()
				return true
			}
		}
		h.held[key] = one
	}
	return waited
}

// await waits for the turn on a key, and returns nil at the deadline.
func (h *heldTurns) await(ctx context.Context, key string, deadline time.Time) *turn {
	ctx, stop := context.WithDeadline(ctx, deadline)
	defer stop()
	one, err := h.all.take(ctx, key)
	if err != nil {
		return nil
	}
	return one
}

func (h *heldTurns) holds(keys []string) bool {
	for _, key := range keys {
		if h.held[key] == nil {
			return false
		}
	}
	return true
}

// release passes the turns on. Nothing is known of the keys any more.
func (h *heldTurns) release() {
	for key, one := range h.held {
		h.all.pass(key, one, false, nil)
	}
	h.held = nil
}
