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
func (l *Locker) acquireOwn(ctx context.Context, kind waiterKind, bad error) (*hold, error) {
	return l.holdOwn(ctx, kind, bad, func(ctx context.Context, q *queue) (*waiter, error) {
		w, err := q.enqueue(ctx, &kind)
		if err != nil {
			return nil, err
		}
		if kind.enqueued != nil {
			kind.enqueued()
		}
		if err = w.await(ctx); err != nil {
			w.discard()
			return nil, q.nameHolder(ctx, kind.name, err)
		}
		return w, nil
	})
}

// tryOwn is like acquireOwn, but does not wait.
func (l *Locker) tryOwn(ctx context.Context, kind waiterKind, bad error) (*hold, error) {
	return l.holdOwn(ctx, kind, bad, func(ctx context.Context, q *queue) (*waiter, error) {
		return q.create(ctx, &kind, (*waiter).enqueueAdmitted)
	})
}

// holdOwn begins the hold of the waiter that acquire returns. Its token is the create revision of
// its key. Such a waiter takes no turns, so that these tokens rise in the order of the queue.
func (l *Locker) holdOwn(
	ctx context.Context, kind waiterKind, bad error, acquire func(context.Context, *queue) (*waiter, error),
) (*hold, error) {
	if bad != nil {
		return nil, bad
	}
	ctx, done, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	start := time.Now()
	q := l.enter(&kind)
	w, err := acquire(ctx, q)
	if err != nil {
		q.exit()
		return nil, err
	}
	l.hook.notify(kind.name, start)
	return w.begin(true, w.create), nil
}

// enqueueAdmitted puts the key if the waiter is admitted, and otherwise returns an error that names
// the blocker. It first assumes that the queue is empty, and reads it if it is not. The put
// requires that no key was created since the read. The entries that were read can only have become
// fewer.
func (w *waiter) enqueueAdmitted(ctx context.Context) error {
	prefix := w.q.prefix
	var seen int64 // revision of the last read of the queue
	for {
		resp, err := w.q.l.commitCreation(ctx, txn{
			op:     "try",
			cmps:   []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(prefix), "<", seen+1).WithRange(keyspace.End(prefix))},
			then:   []clientv3.Op{w.put(w.value)},
			orElse: []clientv3.Op{newest(prefix, 0), clientv3.OpGet(w.key)},
		})
		if w.putIfFree(resp, err) {
			return err
		}
		if err := w.refusal(parsePage(prefix, w.key, resp.revision(), resp.get(0)).entries); err != nil {
			return err
		}
		seen = resp.revision()
	}
}

// refusal returns an error that names the first entry behind which the waiter would not be
// admitted, or nil if it would be admitted at the end of the queue. It may search by bisection,
// because a rule that does not block continues not to block as the entries ahead become fewer.
func (w *waiter) refusal(all []entry) error {
	i := sort.Search(len(all), func(i int) bool { // how many of the newest entries must go
		blockers, _ := w.rule(all[i:])
		return len(blockers) == 0
	})
	if i == 0 {
		return nil
	}
	if _, dead := w.rule(all[i-1:]); dead != nil {
		return w.q.l.blockedBy(w.q.name, dead)
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
	return p.work(ctx, l, func(ctx context.Context) error { return f(ctx, p) })
}
