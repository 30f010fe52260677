package lock

import (
	"context"
	"fmt"
	"sort"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// acquireOwn acquires a hold with a waiter of its own, which is not handed to another goroutine.
func (l *Locker) acquireUnshared(ctx context.Context, kind waiterKind, bad error) (*hold, error) {
	return l.startUnshared(ctx, kind, bad, func(ctx context.Context, q *queue) (*waiter, error) {
		w, err := q.enqueue(ctx, &kind)
		if err != nil {
			return nil, err
		}
		if kind.onEnqueued != nil {
			kind.onEnqueued()
		}
		if err = w.awaitGrant(ctx); err != nil {
			w.discard()
			return nil, q.addHolder(ctx, kind.name, err)
		}
		return w, nil
	})
}

// tryOwn is like acquireOwn, but does not wait.
func (l *Locker) tryUnshared(ctx context.Context, kind waiterKind, bad error) (*hold, error) {
	return l.startUnshared(ctx, kind, bad, func(ctx context.Context, q *queue) (*waiter, error) {
		return q.createWaiter(ctx, &kind, (*waiter).enqueueIfAdmitted)
	})
}

// holdOwn begins the hold of the waiter that acquire returns. Its token is the create revision of
// its key. Such a waiter takes no turns, so that these tokens rise in the order of the queue.
func (l *Locker) startUnshared(
	ctx context.Context, kind waiterKind, bad error, acquire func(context.Context, *queue) (*waiter, error),
) (*hold, error) {
	if bad != nil {
		return nil, bad
	}
	ctx, done, err := l.startCall(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	start := time.Now()
	q := l.retainQueue(&kind)
	w, err := acquire(ctx, q)
	if err != nil {
		q.release()
		return nil, err
	}
	l.hook.notify(kind.name, start)
	return w.startHold(true, w.createRev), nil
}

// enqueueAdmitted puts the key if the waiter is admitted, and otherwise returns an error that names
// the blocker. It first assumes that the queue is empty, and reads it if it is not. The put
// requires that no key was created since the read. The entries that were read can only have become
// fewer.
func (w *waiter) enqueueIfAdmitted(ctx context.Context) error {
	prefix := w.q.prefix
	var seen int64 // revision of the last read of the queue
	for {
		resp, err := w.q.l.commitCreation(ctx, txn{
			op:     "try",
			cmps:   []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(prefix), "<", seen+1).WithRange(keyspace.End(prefix))},
			then:   []clientv3.Op{w.putOp(w.value)},
			orElse: []clientv3.Op{newestOp(prefix, 0), clientv3.OpGet(w.key)},
		})
		if w.recordTry(resp, err) {
			return err
		}
		if err := w.blockerError(parsePage(prefix, w.key, resp.revision(), resp.rangeResponse(0)).entries); err != nil {
			return err
		}
		seen = resp.revision()
	}
}

// refusal returns an error that names the first entry behind which the waiter would not be
// admitted, or nil if it would be admitted at the end of the queue. It may search by bisection,
// because a rule that does not block continues not to block as the entries ahead become fewer.
func (w *waiter) blockerError(all []entry) error {
	i := sort.Search(len(all), func(i int) bool { // how many of the newest entries must go
		blockers, _ := w.rule(all[i:])
		return len(blockers) == 0
	})
	if i == 0 {
		return nil
	}
	if _, permanent := w.rule(all[i-1:]); permanent != nil {
		return w.q.l.permanentlyBlockedError(w.q.name, permanent)
	}
	return w.q.l.lockedError(w.q.name, &all[i-1])
}

// doShared runs f under a permit that acquire returns.
func doShared(ctx context.Context, l *Locker, name string, f SharedFunc, acquire func(context.Context) (*Permit, error)) error {
	if f == nil {
		return fail("do", name, fmt.Errorf("%w: no function", errs.Invalid))
	}
	p, err := acquire(ctx)
	if err != nil {
		return err
	}
	return p.run(ctx, l, func(ctx context.Context) error { return f(ctx, p) })
}
