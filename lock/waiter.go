package lock

import (
	"cmp"
	"context"
	"errors"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keywatch"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// waiter is an entry of this package in a queue: enqueued, waiting, admitted, held, and finally
// removed. It belongs to one goroutine at a time. docs/lock-protocol.md describes the protocol and
// why it is right.
//
//	          enqueue                  await                  hold            remove
//	(nonce) ----------> in the queue ----------> admitted ----------> held ----------> removed
//	   |                     |                      |                  |
//	   | failed              | ctx                  | ctx              | session ended, key gone
//	   v                     v                      v                  v
//	swept <--------------------- (or handed on in the local queue) --- lost
type waiter struct {
	*admission
	ownKey

	token   int64 // of the hold, once it is admitted
	wasHeld bool  // the next hold needs a token of its own

	// The blockers as of revision readRev. If there are none, they are not known and the queue must
	// be checked.
	blockers []entry
	readRev  int64
	ahead    *queuePage // read by the enqueueing; nil if its answer was lost
}

// enqueue puts a key at the end of the queue, and reads the entries ahead. It costs one RPC.
func (q *queue) enqueue(ctx context.Context, kind *waiterKind) (*waiter, error) {
	return q.createWaiter(ctx, kind, (*waiter).enqueueKey)
}

// createWaiter returns a waiter whose key request has created. On an error nothing is left behind.
// If etcd no longer knows the session, createWaiter waits for its end and uses another one.
func (q *queue) createWaiter(ctx context.Context, kind *waiterKind, request func(*waiter, context.Context) error) (*waiter, error) {
	var backoffs backoff.BackOff
	for {
		if err := retry.ContextError(ctx); err != nil {
			return nil, err
		}
		w := &waiter{admission: kind.admission}
		if err := w.register(ctx, q, kind); err != nil {
			// The opening of a session has a timeout of its own, which may be shorter than that of
			// ctx.
			if _, ok := ctx.Deadline(); !ok || !errors.Is(err, errs.Unavailable) {
				return nil, err
			}
			if backoffs == nil {
				backoffs = newBackoff(maxBackoff)
			}
			if retry.Sleep(ctx, backoffs.NextBackOff()) != nil {
				return nil, err
			}
			continue
		}
		err := q.l.sendDetached(ctx, func(ctx context.Context) error { return request(w, ctx) }, w.discard)
		if err == nil {
			return w, nil
		}
		if !errors.Is(err, errs.LeaseNotFound) {
			return nil, &cleanedUpError{err}
		}
		if err := w.awaitSessionEnd(ctx); err != nil {
			return nil, err
		}
	}
}

// awaitSessionEnd waits until the session has ended because etcd no longer knows its lease.
func (w *waiter) awaitSessionEnd(ctx context.Context) error {
	// If Verify fails, the next renewal reports the loss.
	w.q.l.calls.Go(func() { _ = w.session.Verify(ctx) })
	select {
	case <-w.session.Context().Done():
		return nil
	case <-ctx.Done():
		return retry.ContextError(ctx)
	}
}

// enqueueKey puts the key at the end of the queue. If no blocker is ahead, the waiter is granted,
// because no key can be created ahead of it.
func (w *waiter) enqueueKey(ctx context.Context) error {
	resp, err := w.q.l.commitCreation(ctx, txn{
		op:   "enqueue",
		cmps: []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(w.key), "=", 0)},
		// The read comes first, so that it does not see the key.
		then:   []clientv3.Op{newestOp(w.q.prefix, w.pageSize), w.putOp(w.value)},
		orElse: []clientv3.Op{clientv3.OpGet(w.key)},
	})
	w.unresolved = int32(resp.unresolved) //nolint:gosec // small
	if err != nil {
		return err
	}
	if !resp.Succeeded { // an earlier attempt has put the key: the entries ahead are not known
		w.unresolved = max(w.unresolved-1, 0)
		w.setCreated(resp.rangeResponse(0).GetKvs()[0].GetCreateRevision())
		return nil
	}
	w.setCreated(resp.revision())
	w.ahead = parsePage(w.q.prefix, w.key, resp.revision(), resp.rangeResponse(0))
	_, err = w.evaluate(w.modRev, w.ahead)
	return err
}

// setAdmitted records a put that was made only because the waiter was admitted.
func (w *waiter) setAdmitted(create int64) {
	w.setCreated(create)
	w.token = create
}

// evaluate decides from the entries ahead of the key, of one revision, newest first: the waiter is
// granted, or blocked, or, if it reports false, more entries must be read. Grants come from here,
// and from requests that put a key only if the waiter is admitted.
func (w *waiter) evaluate(mod int64, ahead *queuePage) (decided bool, err error) {
	blockers, permanent := w.rule(ahead.entries)
	switch {
	case permanent != nil:
		return true, w.q.l.permanentlyBlockedError(w.q.name, permanent)
	case len(blockers) > 0:
		w.blockers, w.readRev = slices.Clone(blockers), ahead.rev
	case !ahead.complete:
		return false, nil
	default:
		w.modRev, w.token, w.blockers = mod, ahead.rev, nil
	}
	return true, nil
}

// pageFactor is the size of the second page of a queue check, in multiples of the first. The third
// is unlimited. More than the first is needed if keys of longer names lie between the entries, or
// if a reader or a permit is behind more entries than the first page holds.
const pageFactor = 16

// checkQueue reads the own key and the entries ahead of it at one revision. It costs one
// linearizable RPC, or up to three if the first page does not decide.
func (w *waiter) checkQueue(ctx context.Context) error {
	size := w.pageSize
	if size > 0 {
		size++ // the own key
	}
	for _, limit := range []int64{size, size * pageFactor, 0} {
		resp, err := w.q.l.read(ctx, "check queue", newestOp(w.q.prefix, limit, clientv3.WithMaxCreateRev(w.createRev)))
		if err != nil {
			return err
		}
		p := parsePage(w.q.prefix, "", resp.revision(), resp.rangeResponse(0))
		if decided, err := w.evaluatePage(p); decided || err != nil {
			return err
		}
	}
	return nil
}

// evaluatePage is evaluate for a page that includes the own key.
func (w *waiter) evaluatePage(p *queuePage) (decided bool, err error) {
	i := slices.IndexFunc(p.entries, func(e entry) bool { return e.key == w.key })
	if i < 0 {
		w.markLost(errKeyDeleted)
		return true, w.lostErr()
	}
	own := p.entries[i]
	if err := w.check(own.createRev, own.lease); err != nil {
		return true, err
	}
	return w.evaluate(own.modRev, &queuePage{entries: p.entries[i+1:], complete: p.complete, rev: p.rev})
}

// maxWatchedKeys is how many blockers are watched one by one. If there are more, the prefix is
// watched.
const maxWatchedKeys = 8

// watchTargets returns the watches that report the deletion of a blocker. If the prefix is watched,
// relevant is the set of the blockers' keys.
func (w *waiter) watchTargets() (targets []keywatch.Target, relevant map[string]bool) {
	if len(w.blockers) > maxWatchedKeys {
		relevant = make(map[string]bool, len(w.blockers))
		for i := range w.blockers {
			relevant[w.blockers[i].key] = true
		}
		return []keywatch.Target{{Key: w.q.prefix, Prefix: true, Filter: keywatch.Deletions}}, relevant
	}
	for i := range w.blockers {
		targets = append(targets, keywatch.Target{Key: w.blockers[i].key, Filter: keywatch.Deletions})
	}
	return targets, nil
}

// awaitGrant waits until the waiter is granted. It returns an error if the session ends, the key is
// gone, ctx ends, or the waiter can never be admitted. It reads the queue whenever a blocker
// leaves, and every checkInterval. It makes one more request if anything was written to etcd before
// the watch on the blocker was open. While no watch can be opened, it polls the queue.
func (w *waiter) awaitGrant(ctx context.Context) error {
	if w.token != 0 {
		return w.lostErr()
	}
	l := w.q.l
	l.counters.waiting.Add(1)
	defer l.counters.waiting.Add(-1)
	ctx, stop := w.bindSession(ctx)
	defer stop()
	watch := w.q.newWatch()
	defer watch.close()
	backoffs := newBackoff(maxBackoff)
	for w.token == 0 {
		if err := cmp.Or(w.lostErr(), retry.ContextError(ctx)); err != nil {
			return err
		}
		var polled *queuePage
		var err error
		if len(w.blockers) > 0 {
			watch.setTargets(w.watchTargets())
			polled, err = watch.await(ctx, &w.readRev, w.confirmBlocker)
		}
		switch {
		case err != nil:
		case polled != nil:
			_, err = w.evaluatePage(polled)
		default:
			err = w.checkQueue(ctx)
		}
		switch {
		case err == nil:
			backoffs.Reset()
		case ctx.Err() != nil || isPermanent(err) || w.lostErr() != nil:
			return cmp.Or(w.lostErr(), err)
		default:
			_ = retry.Sleep(ctx, backoffs.NextBackOff())
		}
	}
	return w.lostErr()
}

// confirmBlocker reports whether the only blocker still exists, and the revision of the read. It
// costs one RPC. It compares the create revision: other clients use their keys again, and a key
// that was created again is behind the waiter. If there are several blockers, the caller must check
// the queue.
func (w *waiter) confirmBlocker(ctx context.Context) (unchanged bool, rev int64, err error) {
	if len(w.blockers) != 1 {
		w.q.l.counters.confirmed.Add(1)
		return false, 0, nil // a queue check costs the same
	}
	b := &w.blockers[0]
	resp, err := w.q.l.read(ctx, "confirm blocker", clientv3.OpGet(b.key))
	if err != nil {
		return false, 0, err
	}
	w.q.l.counters.confirmed.Add(1)
	kvs := resp.rangeResponse(0).GetKvs()
	return len(kvs) > 0 && kvs[0].GetCreateRevision() == b.createRev, resp.revision(), nil
}
