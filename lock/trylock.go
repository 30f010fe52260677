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
	g, err := m.tryLock(ctx)
	if err != nil {
		return nil, fail("try lock", m.kind.name, err)
	}
	return &Held{Permit{g}}, nil
}

func (m *Mutex) tryLock(ctx context.Context) (*hold, error) {
	if m.bad != nil {
		return nil, m.bad
	}
	ctx, done, err := m.l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	start := time.Now()
	q := m.l.enter(&m.kind)
	if !q.local.tryJoin() {
		defer q.exit()
		return nil, q.localHolder(m.kind.name)
	}
	w, err := q.create(ctx, &m.kind, (*waiter).enqueueFirst)
	if err != nil {
		q.local.releaseHead(nil)
		q.exit()
		return nil, err
	}
	m.l.hook.notify(m.kind.name, start)
	return w.begin(false, w.token), nil
}

// localHolder returns the error of a call that this process itself keeps out, by a hold or a
// waiter.
func (q *queue) localHolder(name string) error {
	switch holder, front := q.local.head(); {
	case holder != nil:
		return &LockedError{Name: name, Owner: q.l.owner, Token: holder.token, Local: true}
	case front != nil:
		return q.lockedBy(name, front)
	}
	return &LockedError{Name: name}
}

// lockedBy returns the error of a call that the entry e keeps out: a LockedError, or a BlockedError
// if e has no lease.
func (q *queue) lockedBy(name string, e *entry) error {
	if e.lease == 0 {
		return q.l.blockedBy(name, e)
	}
	return q.l.lockedError(name, e)
}

func (l *Locker) lockedError(name string, e *entry) error {
	return &LockedError{Name: name, Owner: e.owner(), Token: e.token(), Local: l.owns(e.key)}
}

// nameHolderTimeout bounds the read for the holder after a wait has timed out.
const nameHolderTimeout = 250 * time.Millisecond

// nameHolder adds the holder of the lock to the error of a wait that has timed out. It costs one
// RPC, and none if a goroutine of this process holds the lock. If etcd does not answer at once, it
// returns err unchanged.
func (q *queue) nameHolder(ctx context.Context, name string, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) || q.l.life.Err() != nil {
		return err
	}
	if holder, _ := q.local.head(); holder != nil {
		return fmt.Errorf("%w: %w", err, plain(q.localHolder(name)))
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), nameHolderTimeout)
	defer stop()
	resp, readErr := q.l.read(ctx, "read holder", oldest(q.prefix, fewAhead))
	if readErr != nil {
		return err
	}
	seen := parsePage(q.prefix, "", 0, resp.get(0))
	if len(seen.entries) == 0 {
		return err
	}
	return fmt.Errorf("%w: %w", err, plain(q.l.lockedError(name, &seen.entries[0])))
}

// owns reports whether this locker created the key.
func (l *Locker) owns(key string) bool { return strings.Contains(key, "-"+l.id+".") }

// blockedBy returns the error for a key without a lease.
func (l *Locker) blockedBy(name string, e *entry) error {
	return &BlockedError{Name: name, Key: e.key[len(l.ns):], Revision: e.create}
}

// enqueueFirst puts the key if the queue is empty. If the transaction finds keys of longer names,
// it is sent again with comparisons that leave them out.
func (w *waiter) enqueueFirst(ctx context.Context) error {
	prefix := w.q.prefix
	limit := int64(fewAhead)
	var nested []string
	for {
		cmps := free(prefix, nested)
		if len(cmps) > maxCompares {
			return w.enqueueAlone(ctx)
		}
		resp, err := w.q.l.commitCreation(ctx, txn{
			op:     "try",
			cmps:   cmps,
			then:   []clientv3.Op{w.put(w.value)},
			orElse: []clientv3.Op{oldest(prefix, limit), clientv3.OpGet(w.key)},
		})
		if w.putIfFree(resp, err) {
			return err
		}
		seen := parsePage(prefix, w.key, resp.revision(), resp.get(0))
		if len(seen.entries) > 0 {
			return w.q.lockedBy(w.q.name, &seen.entries[0])
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
func (w *waiter) putIfFree(resp txnResult, err error) bool {
	w.late += int32(resp.unknown) //nolint:gosec // small
	if err != nil {
		return true
	}
	if resp.Succeeded {
		w.admit(resp.revision())
		return true
	}
	if own := resp.get(1).GetKvs(); len(own) > 0 {
		w.late = max(w.late-1, 0)
		w.admit(own[0].GetCreateRevision())
		return true
	}
	return false
}

// maxCompares is the largest number of comparisons by which a transaction may find that the queue
// is empty. etcd allows 128.
const maxCompares = 100

// enqueueAlone replaces enqueueFirst if there are too many longer names. It enqueues, and returns
// an error unless the waiter is granted at once. The key is removed then, as after any failure.
func (w *waiter) enqueueAlone(ctx context.Context) error {
	all := *w.admission
	all.pageSize = 0
	w.admission = &all
	if err := w.enqueueOnce(ctx); err != nil {
		return err
	}
	if w.token == 0 {
		return &LockedError{Name: w.q.name}
	}
	return nil
}
