package lock

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keywatch"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/lease"
)

// waiter is a key of this package in a queue: enqueued, waiting, admitted, held, and finally
// removed. It belongs to one goroutine at a time. docs/lock-protocol.md describes the protocol and
// why it is right.
//
//	          enqueue                  await                  hold            remove
//	(nonce) ----------> in the queue ----------> admitted ----------> held ----------> removed
//	   |                     |                      |                  |
//	   | failed              | ctx                  | ctx              | session ended, key gone
//	   v                     v                      v                  v
//	swept <--------------------- (or handed on in the local queue) --- lost
//
// It is registered with the locker from before the first request that could create its key until
// the key is known to be gone or is left to the sweeper.
type waiter struct {
	*admission

	q              *queue
	session        *lease.Session
	releaseSession func() // frees the waiter's place on the session
	key            string
	value          string

	createRev  int64 // revision of the key, 0 before it exists
	modRev     int64 // mod revision, as last known
	token      int64 // of the hold, once it is admitted
	unresolved int32 // requests that may yet create the key, even after it was removed
	wasHeld    bool  // was held: the next hold needs a token of its own

	// The blockers at revision seen. If there are none, they are not known and a look is needed.
	blockers []entry
	readRev  int64
	ahead    *queuePage // read by the enqueueing; nil if its answer was lost

	mu        sync.Mutex
	lostCause error // why the key is no longer ours
	hold      *hold // nil while there is none
}

// newWaiter registers a waiter with a new key, on a shared session that has room. It waits for a
// session if there is none.
func (q *queue) newWaiter(ctx context.Context, kind *waiterKind) (*waiter, error) {
	l := q.l
	s, release, err := l.leases.Acquire(ctx, l.sessionOptions...)
	if err != nil {
		return nil, reason(err)
	}
	w := &waiter{admission: kind.admission, q: q, session: s, releaseSession: release, key: l.newKey(kind, s), value: kind.value}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiters[w.key] = w
	l.retainSession(s)
	return w, nil
}

// newKey returns a key that nobody has used.
func (l *Locker) newKey(kind *waiterKind, s *lease.Session) string {
	b := make([]byte, 0, len(kind.prefix)+len(l.id)+len(kind.suffix)+2*maxHexLen+2)
	b = append(b, kind.prefix...)
	b = strconv.AppendInt(b, int64(s.ID()), 16)
	b = append(append(b, '-'), l.id...)
	b = strconv.AppendUint(append(b, '.'), l.lastNonce.Add(1), 36)
	return string(append(b, kind.suffix...))
}

// maxHex is the length of the longest 64-bit number in hexadecimal.
const maxHexLen = 16

// put returns the operation that creates the key or changes its value.
func (w *waiter) putOp(value string) clientv3.Op {
	return clientv3.OpPut(w.key, value, clientv3.WithLease(w.session.ID()))
}

// enqueue puts a key at the end of the queue, and reads the entries ahead. It costs one RPC.
func (q *queue) enqueue(ctx context.Context, kind *waiterKind) (*waiter, error) {
	return q.createWaiter(ctx, kind, (*waiter).enqueueKey)
}

// create returns a waiter whose key request has created. On an error nothing is left behind. If
// etcd no longer knows the session, create waits for its end and uses another one.
func (q *queue) createWaiter(ctx context.Context, kind *waiterKind, request func(*waiter, context.Context) error) (*waiter, error) {
	var backoffs backoff.BackOff
	for {
		if err := retry.ContextError(ctx); err != nil {
			return nil, err
		}
		w, err := q.newWaiter(ctx, kind)
		if err != nil {
			// The opening of a session has a timeout of its own, which may be shorter than that of
			// ctx.
			if _, ok := ctx.Deadline(); !ok || !errors.Is(err, errs.Unavailable) {
				return nil, err
			}
			if backoffs == nil {
				backoffs = newBackoff(maxBackoff)
			}
			if !sleep(ctx, backoffs.NextBackOff()) {
				return nil, err
			}
			continue
		}
		err = q.l.sendDetached(ctx, func(ctx context.Context) error { return request(w, ctx) }, w.discard)
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

// awaitLoss waits until the session has ended because etcd no longer knows its lease.
func (w *waiter) awaitSessionEnd(ctx context.Context) error {
	w.q.l.calls.Go(func() { _ = w.session.Verify(ctx) }) // if it fails, the next renewal reports the loss
	select {
	case <-w.session.Context().Done():
		return nil
	case <-ctx.Done():
		return retry.ContextError(ctx)
	}
}

// enqueueOnce puts the key at the end of the queue. If no blocker is ahead, the waiter is granted,
// because no key can be created ahead of it.
func (w *waiter) enqueueKey(ctx context.Context) error {
	resp, err := w.q.l.commitCreation(ctx, txn{
		op:     "enqueue",
		cmps:   []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(w.key), "=", 0)},
		then:   []clientv3.Op{newestOp(w.q.prefix, w.pageSize), w.putOp(w.value)}, // the read comes first, so that it does not see the key
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

// found records the create revision of the key.
func (w *waiter) setCreated(create int64) { w.createRev, w.modRev = create, create }

// admit records a put that was made only because the waiter was admitted.
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

// morePages is the size of the second page of a look, in multiples of the first. The third is
// unlimited. More than the first is needed if keys of longer names lie between the entries, or if a
// reader or a permit is behind more entries than the first page holds.
const pageFactor = 16

// look reads the own key and the entries ahead of it at one revision. It costs one linearizable
// RPC, or up to three if the first page does not decide.
func (w *waiter) checkQueue(ctx context.Context) error {
	size := w.pageSize
	if size > 0 {
		size++ // the own key
	}
	for _, limit := range []int64{size, size * pageFactor, 0} {
		resp, err := w.q.l.read(ctx, "look", newestOp(w.q.prefix, limit, clientv3.WithMaxCreateRev(w.createRev)))
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

// evaluateOwn is evaluate for a page that includes the own key.
func (w *waiter) evaluatePage(p *queuePage) (decided bool, err error) {
	i := slices.IndexFunc(p.entries, func(e entry) bool { return e.key == w.key })
	if i < 0 {
		w.markLost(errKeyDeleted)
		return true, w.lostErr()
	}
	own := p.entries[i]
	if err := w.checkOwnKey(own.createRev, own.lease); err != nil {
		return true, err
	}
	return w.evaluate(own.modRev, &queuePage{entries: p.entries[i+1:], complete: p.complete, rev: p.rev})
}

// checkOwn records a loss if the key, as it was read, is no longer ours.
func (w *waiter) checkOwnKey(create int64, on clientv3.LeaseID) error {
	switch {
	case create != w.createRev:
		w.markLost(errKeyDeleted)
	case on != w.session.ID():
		w.markLost(errOverwritten)
	default:
		return nil
	}
	return w.lostErr()
}

// maxWatched is how many blockers are watched one by one. If there are more, the prefix is watched.
const maxWatchedKeys = 8

// targets returns the watches that report the deletion of a blocker. If the prefix is watched,
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

// await waits until the waiter is granted. It ends with an error if the session ends, the key is
// gone, ctx ends, or the waiter can never be admitted. It costs one look for each blocker that
// goes, one more request if etcd was written to before the watch on the blocker was open, and one
// look every 30 s. While no watch can be opened, the queue is polled.
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
			sleep(ctx, backoffs.NextBackOff())
		}
	}
	return w.lostErr()
}

// confirm reports whether the only blocker still exists, and the revision of the read. It costs one
// RPC. It compares the create revision: other clients use their keys again, and a key that was
// created again is behind the waiter. If there are several blockers, the caller must look.
func (w *waiter) confirmBlocker(ctx context.Context) (unchanged bool, rev int64, err error) {
	if len(w.blockers) != 1 {
		w.q.l.counters.confirmed.Add(1)
		return false, 0, nil // a look costs the same
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

// bind returns a context that also ends with the waiter's session.
func (w *waiter) bindSession(ctx context.Context) (bound context.Context, stop func()) {
	bound, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(w.session.Context(), func() { cancel(newLostError(w.session.Err())) })
	return bound, func() {
		unlink()
		cancel(nil)
	}
}

// lose records why the key is no longer ours, and ends the hold of the waiter at once.
func (w *waiter) markLost(cause error) {
	w.mu.Lock()
	if w.lostCause == nil {
		w.lostCause = newLostError(cause)
	}
	h := w.hold
	w.mu.Unlock()
	if h != nil {
		h.markLost(cause)
	}
}

// lostErr returns why the waiter is useless: its session has ended or its key is gone. It returns
// nil otherwise.
func (w *waiter) lostErr() error {
	if err := w.session.Err(); err != nil {
		return newLostError(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lostCause
}
