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

// acquireOwn gets a hold by a waiter that is the caller's alone, not handed from one goroutine to the next.
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

// tryOwn is acquireOwn that does not wait.
func (l *Locker) tryOwn(ctx context.Context, kind waiterKind, bad error) (*hold, error) {
	return l.holdOwn(ctx, kind, bad, func(ctx context.Context, q *queue) (*waiter, error) {
		return q.create(ctx, &kind, (*waiter).enqueueAdmitted)
	})
}

// holdOwn begins the hold of the waiter that acquire returns. Its token is the create revision of its key: nobody takes turns
// with it, so that these rise in the order of the queue.
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

// enqueueAdmitted puts the key if it is admitted, and fails with who is in the way if it is not. The queue is taken for
// empty at first, and then looked at. The put depends on that no key was created since: those that were looked at can
// only have become fewer.
func (w *waiter) enqueueAdmitted(ctx context.Context) error {
	prefix := w.q.prefix
	var seen int64 // the revision at which the queue was looked at
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

// refusal says who is in the way of a waiter at the end of a queue, nil if nobody is: the first one behind whom it would not
// be admitted. A rule that does not block goes on not to while those ahead become fewer.
func (w *waiter) refusal(all []entry) error {
	i := sort.Search(len(all), func(i int) bool { // how many of the newest can be left out
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

// doShared is work under a permit.
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
