package lock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TryLock locks the mutex if no other owner holds it or waits for it. Otherwise it returns a
// [*LockedError], or a [*BlockedError] if the first key of the queue has no lease. It waits only
// for etcd's answer. It costs one RPC, which changes nothing if the mutex is taken, and none if
// this process holds it or waits for it. It costs one more if other names lie below the name.
func (m *Mutex) TryLock(ctx context.Context) (*Held, error) {
	h, err := m.tryLock(ctx)
	if err != nil {
		return nil, fail("try lock", m.kind.name, err)
	}
	return &Held{Permit{h}}, nil
}

func (m *Mutex) tryLock(ctx context.Context) (*hold, error) {
	if m.err != nil {
		return nil, m.err
	}
	ctx, done, err := m.l.startCall(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	start := time.Now()
	q := m.l.retainQueue(&m.kind)
	if !q.local.tryJoin() {
		defer q.release()
		return nil, q.localLockedError(m.kind.name)
	}
	w, err := q.createWaiter(ctx, &m.kind, (*waiter).enqueueIfEmpty)
	if err != nil {
		q.local.releaseHead(nil)
		q.release()
		return nil, err
	}
	m.l.hook.notify(m.kind.name, start)
	return w.startHold(false, w.token), nil
}

// localHolder returns the error of a call that this process itself keeps out, by a hold or a
// waiter.
func (q *queue) localLockedError(name string) error {
	switch holder, front := q.local.state(); {
	case holder != nil:
		return &LockedError{Name: name, Owner: q.l.owner, Token: holder.token, Local: true}
	case front != nil:
		return q.blockedError(name, front)
	}
	return &LockedError{Name: name}
}

// lockedBy returns the error of a call that the entry e keeps out: a LockedError, or a BlockedError
// if e has no lease.
func (q *queue) blockedError(name string, e *entry) error {
	if e.lease == 0 {
		return q.l.permanentlyBlockedError(name, e)
	}
	return q.l.lockedError(name, e)
}

func (l *Locker) lockedError(name string, e *entry) error {
	return &LockedError{Name: name, Owner: e.owner(), Token: e.token(), Local: l.owns(e.key)}
}

// nameHolderTimeout bounds the read for the holder after a wait has timed out.
const readHolderTimeout = 250 * time.Millisecond

// nameHolder adds the holder of the lock to the error of a wait that has timed out. It costs one
// RPC, and none if a goroutine of this process holds the lock. If etcd does not answer at once, it
// returns err unchanged.
func (q *queue) addHolder(ctx context.Context, name string, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) || q.l.ctx.Err() != nil {
		return err
	}
	if holder, _ := q.local.state(); holder != nil {
		return fmt.Errorf("%w: %w", err, plain(q.localLockedError(name)))
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), readHolderTimeout)
	defer stop()
	resp, readErr := q.l.read(ctx, "read holder", oldestOp(q.prefix, exclusivePageSize))
	if readErr != nil {
		return err
	}
	seen := parsePage(q.prefix, "", 0, resp.rangeResponse(0))
	if len(seen.entries) == 0 {
		return err
	}
	return fmt.Errorf("%w: %w", err, plain(q.l.lockedError(name, &seen.entries[0])))
}

// owns reports whether this locker created the key.
func (l *Locker) owns(key string) bool { return strings.Contains(key, "-"+l.id+".") }

// blockedBy returns the error for a key without a lease.
func (l *Locker) permanentlyBlockedError(name string, e *entry) error {
	return &BlockedError{Name: name, Key: e.key[len(l.namespace):], Revision: e.createRev}
}

// enqueueFirst puts the key if the queue is empty. If the transaction finds keys of longer names,
// it is sent again with comparisons that leave them out.
func (w *waiter) enqueueIfEmpty(ctx context.Context) error {
	prefix := w.q.prefix
	limit := int64(exclusivePageSize)
	var nested []string
	for {
		cmps := emptyCompares(prefix, nested)
		if len(cmps) > maxCompares {
			return w.enqueueOrFail(ctx)
		}
		resp, err := w.q.l.commitCreation(ctx, txn{
			op:     "try",
			cmps:   cmps,
			then:   []clientv3.Op{w.putOp(w.value)},
			orElse: []clientv3.Op{oldestOp(prefix, limit), clientv3.OpGet(w.key)},
		})
		if w.recordTry(resp, err) {
			return err
		}
		seen := parsePage(prefix, w.key, resp.revision(), resp.rangeResponse(0))
		if len(seen.entries) > 0 {
			return w.q.blockedError(w.q.name, &seen.entries[0])
		}
		nested = seen.nested
		if !seen.complete {
			limit = 0 // no limit
		}
	}
}

// putIfFree handles the result of a transaction that puts the key if the waiter is admitted, and
// otherwise reads the queue and the key. It reports whether the matter is settled: by an error, by
// the put, or by a put of an earlier attempt whose answer was lost.
func (w *waiter) recordTry(resp txnResult, err error) bool {
	w.unresolved += int32(resp.unresolved) //nolint:gosec // small
	if err != nil {
		return true
	}
	if resp.Succeeded {
		w.setAdmitted(resp.revision())
		return true
	}
	if own := resp.rangeResponse(1).GetKvs(); len(own) > 0 {
		w.unresolved = max(w.unresolved-1, 0)
		w.setAdmitted(own[0].GetCreateRevision())
		return true
	}
	return false
}

// maxCompares is the largest number of comparisons by which a transaction may find that the queue
// is empty. etcd allows 128.
const maxCompares = 100

// enqueueAlone replaces enqueueFirst if there are too many longer names. It enqueues, and returns
// an error unless the waiter is granted at once. The key is removed then, as after any failure.
func (w *waiter) enqueueOrFail(ctx context.Context) error {
	all := *w.admission
	all.pageSize = 0
	w.admission = &all
	if err := w.enqueueKey(ctx); err != nil {
		return err
	}
	if w.token == 0 {
		return &LockedError{Name: w.q.name}
	}
	return nil
}
