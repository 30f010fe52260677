package lock

import (
	"cmp"
	"context"
	"errors"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/sweep"
)

// turn puts the key again for the next goroutine that holds it, which makes a new token and a new
// guard. It costs one RPC, which also shows whether another process waits.
func (w *waiter) takeTurn(ctx context.Context, local *localQueue) error {
	resp, err := w.rewriteKey(ctx, w.value, newestOp(w.q.prefix, exclusivePageSize))
	if err != nil {
		return err
	}
	w.token = w.modRev
	local.countTurn(w.isContended(parsePage(w.q.prefix, w.key, 0, resp.rangeResponse(1))))
	w.q.l.counters.turns.Add(1)
	return nil
}

// contended reports whether the newest keys show a waiter behind this one, or may hide one.
func (w *waiter) isContended(newest *queuePage) bool {
	for i := range newest.entries {
		if newest.entries[i].createRev > w.createRev {
			return true
		}
	}
	return !newest.complete && len(newest.nested) == exclusivePageSize
}

// rewrite puts the key again, with the operations of more in the same transaction. Its place in the
// queue is kept, and its mod revision rises. It costs one RPC. The transaction compares the
// previous mod revision, so that an earlier one that arrives late has no effect.
func (w *waiter) rewriteKey(ctx context.Context, value string, more ...clientv3.Op) (txnResult, error) {
	ctx, stop := w.bindSession(ctx)
	defer stop()
	for {
		resp, err := w.q.l.commit(ctx, txn{
			op:     "rewrite",
			cmps:   []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(w.key), "=", w.modRev)},
			then:   append([]clientv3.Op{w.putOp(value)}, more...),
			orElse: []clientv3.Op{clientv3.OpGet(w.key)},
		})
		if err != nil {
			if errors.Is(err, errs.LeaseNotFound) {
				w.markLost(errLeaseEnded)
			}
			return resp, cmp.Or(w.lostErr(), err)
		}
		if resp.Succeeded {
			w.modRev = resp.revision()
			return resp, nil
		}
		kvs := resp.rangeResponse(0).GetKvs()
		if len(kvs) == 0 {
			w.markLost(errKeyDeleted)
			return resp, w.lostErr()
		}
		if err := w.checkOwnKey(kvs[0].GetCreateRevision(), clientv3.LeaseID(kvs[0].GetLease())); err != nil {
			return resp, err
		}
		w.modRev = kvs[0].GetModRevision() // by a put of ours whose answer was lost: put again
	}
}

// remove deletes the key if it is still the one that was created, and then runs the operations of
// more. It costs one RPC. It returns ErrLost if the key was already gone. Afterwards the waiter is
// retired, and the key is swept if the outcome is unknown.
func (w *waiter) removeKey(ctx context.Context, more ...clientv3.Op) (txnResult, error) {
	resp, err := w.q.l.commit(ctx, txn{
		op:   "release",
		cmps: []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(w.key), "=", w.createRev)},
		then: append([]clientv3.Op{clientv3.OpDelete(w.key)}, more...),
	})
	if err != nil {
		w.discard()
		return resp, err
	}
	if w.unresolved == 0 || w.sweep() {
		w.unregister()
	} // else Close removes it
	if !resp.Succeeded && resp.unresolved == 0 {
		return resp, newLostError(errKeyDeleted)
	}
	return resp, nil
}

// discard gives up the waiter without waiting. Its key is removed in the background.
func (w *waiter) discard() {
	if w.createRev == 0 && w.unresolved == 0 {
		w.unregister() // the key was never created
		return
	}
	if w.sweep() {
		w.unregister()
	} // else Close removes it
}

// retire removes the waiter from the locker. Its key is gone or is being swept.
func (w *waiter) unregister() {
	l := w.q.l
	l.mu.Lock()
	if l.waiters[w.key] == w {
		delete(l.waiters, w.key)
		l.releaseSession(w.session)
	}
	l.mu.Unlock()
	w.releaseSession()
}

// sweep leaves the key to the sweeper of the leases, which deletes it in the background until it is
// known to be gone, also after the locker is closed. It reports false while Close has yet to delete
// the registered keys itself.
func (w *waiter) sweep() bool {
	l := w.q.l
	l.mu.Lock()
	closing := l.closed && !l.keysRemoved
	l.mu.Unlock()
	if closing {
		return false
	}
	w.addToSweeper()
	return true
}

func (w *waiter) addToSweeper() {
	l := w.q.l
	l.sweeper.Add(sweep.Key{
		Name: w.key, Leases: []clientv3.LeaseID{w.session.ID()}, Late: w.unresolved > 0,
		Delete: func(ctx context.Context) error {
			existed, err := l.deleteKey(ctx, w.key)
			if existed {
				l.counters.swept.Add(1)
			}
			return err
		},
	})
}

// deleteKey deletes a key of this package, and reports whether it existed. It may be repeated,
// because no key is used twice.
func (l *Locker) deleteKey(ctx context.Context, key string) (existed bool, err error) {
	call := retry.Call{Pkg: "lock", Op: "sweep", Key: key, AtMostOnce: true}
	op := clientv3.OpDelete(key)
	resp, err := retry.Do(ctx, l.sender.Engine, call, func(ctx context.Context, _ bool) (clientv3.OpResponse, error) {
		return l.sender.KV.Do(ctx, op)
	})
	return err == nil && resp.Del().Deleted > 0, err
}
