package lock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TryLock locks if nobody holds and nobody waits, and returns a [*LockedError] if somebody does. It does not wait, but
// for etcd's answer. One RPC, which changes nothing where the mutex is taken; none where this process holds it or waits
// for it. A name with other names below it costs one RPC more.
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

// localHolder says who is in the way if this process itself holds or waits.
func (q *queue) localHolder(name string) error {
	switch holder, front := q.local.head(); {
	case holder != nil:
		return &LockedError{Name: name, Owner: q.l.owner, Token: holder.token, Local: true}
	case front != nil:
		return q.lockedBy(name, front)
	}
	return &LockedError{Name: name}
}

// lockedBy says who stands first.
func (q *queue) lockedBy(name string, e *entry) error {
	if e.lease == 0 {
		return q.l.blockedBy(name, e)
	}
	return q.l.lockedError(name, e)
}

func (l *Locker) lockedError(name string, e *entry) error {
	return &LockedError{Name: name, Owner: e.owner(), Token: e.token(), Local: l.owns(e.key)}
}

// nameHolderTimeout bounds the read that finds out who holds what a call waited for in vain.
const nameHolderTimeout = 250 * time.Millisecond

// nameHolder adds to the error of a wait that has timed out who holds the lock: one RPC, none if a
// goroutine of this process holds it. If etcd does not answer at once, the error stays as it is.
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

// owns reports whether this locker has made a key.
func (l *Locker) owns(key string) bool { return strings.Contains(key, "-"+l.id+".") }

// blockedBy names a key that nobody will ever remove.
func (l *Locker) blockedBy(name string, e *entry) error {
	return &BlockedError{Name: name, Key: e.key[len(l.ns):], Revision: e.create}
}

// enqueueFirst puts the key if nobody is in the queue. Keys of longer names, which the transaction comes upon, are left
// out when it is sent again.
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
			limit = 0 // all of them
		}
	}
}

// putIfFree reports whether a transaction has settled the matter that puts the key if nobody is in the way, and reads the queue and
// the key if somebody is: by an error, or by the put, if that was its first attempt or one whose answer was lost.
func (w *waiter) putIfFree(resp txnResult, err error) bool {
	w.late += int32(resp.unknown) //nolint:gosec // a few
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

// maxCompares is how many compares a transaction may need to find that the queue is empty; etcd takes 128.
const maxCompares = 100

// enqueueAlone is enqueueFirst if too many longer names lie in between: it enqueues, and fails unless that is
// the first. The key is removed then, as after any failure.
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
