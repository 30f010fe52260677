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

// waiter is a key of ours in a queue: enqueued, waiting, admitted, held, and in the end removed. It belongs to one
// goroutine at a time. docs/lock-protocol.md has the protocol, and the proof that it is right.
//
//	          enqueue                  await                  hold            remove
//	(nonce) ----------> in the queue ----------> admitted ----------> held ----------> removed
//	   |                     |                      |                  |
//	   | failed              | ctx                  | ctx              | session ended, key gone
//	   v                     v                      v                  v
//	swept <--------------------- (or handed on in the local queue) --- lost
//
// It is registered with the locker before the first request that could create its key, and until the key is known to
// be gone or is left to the sweeper.
type waiter struct {
	*admission

	q       *queue
	s       *lease.Session
	release func() // has the session, whose lease carries a bounded number of keys, carry one less
	key     string
	value   string

	create int64 // revision of the key, 0 before it is there
	mod    int64 // of its last put
	token  int64 // of the hold, once it is admitted
	late   int32 // requests that may yet create the key, also after it was removed
	used   bool  // was held: the next hold needs a token of its own

	// What blocked it at revision seen; no blockers: that is not known, and has to be looked at.
	blockers []entry
	seen     int64
	ahead    *page // that the enqueueing has read, nil if its answer was lost

	mu   sync.Mutex
	lost error // why the key is no longer ours
	hold *hold // by it
}

// newWaiter registers a waiter with a key that nobody has, on a shared session that has room. It waits for one if there is
// none.
func (q *queue) newWaiter(ctx context.Context, kind *waiterKind) (*waiter, error) {
	l := q.l
	s, release, err := l.leases.Acquire(ctx, l.sessionOptions...)
	if err != nil {
		return nil, reason(err)
	}
	w := &waiter{admission: kind.admission, q: q, s: s, release: release, key: l.newKey(kind, s), value: kind.value}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiters[w.key] = w
	l.join(s)
	return w, nil
}

// newKey returns a key that nobody has.
func (l *Locker) newKey(kind *waiterKind, s *lease.Session) string {
	b := make([]byte, 0, len(kind.prefix)+len(l.id)+len(kind.mark)+2*maxHex+2)
	b = append(b, kind.prefix...)
	b = strconv.AppendInt(b, int64(s.ID()), 16)
	b = append(append(b, '-'), l.id...)
	b = strconv.AppendUint(append(b, '.'), l.nonces.Add(1), 36)
	return string(append(b, kind.mark...))
}

// maxHex is the length of the longest number of 64 bits.
const maxHex = 16

// put is the operation that creates the key, or changes its value.
func (w *waiter) put(value string) clientv3.Op {
	return clientv3.OpPut(w.key, value, clientv3.WithLease(w.s.ID()))
}

// enqueue puts a key at the end of the queue, and reads who is ahead: one RPC.
func (q *queue) enqueue(ctx context.Context, kind *waiterKind) (*waiter, error) {
	return q.create(ctx, kind, (*waiter).enqueueOnce)
}

// create makes a waiter by a request that creates its key. On an error nothing stays behind. A session that etcd no longer
// knows is waited out, and another one taken.
func (q *queue) create(ctx context.Context, kind *waiterKind, request func(*waiter, context.Context) error) (*waiter, error) {
	var pauses backoff.BackOff
	for {
		if err := retry.ContextError(ctx); err != nil {
			return nil, err
		}
		w, err := q.newWaiter(ctx, kind)
		if err != nil {
			// The opening of a session has a timeout of its own, which may be shorter than that of ctx.
			if _, ok := ctx.Deadline(); !ok || !errors.Is(err, errs.Unavailable) {
				return nil, err
			}
			if pauses == nil {
				pauses = newBackoff(maxBackoff)
			}
			if !sleep(ctx, pauses.NextBackOff()) {
				return nil, err
			}
			continue
		}
		err = q.l.detached(ctx, func(ctx context.Context) error { return request(w, ctx) }, w.discard)
		if err == nil {
			return w, nil
		}
		if !errors.Is(err, errs.LeaseNotFound) {
			return nil, &cleanedUpError{err}
		}
		if err := w.awaitLoss(ctx); err != nil {
			return nil, err
		}
	}
}

// awaitLoss waits until the session knows what etcd has said: that its lease is gone.
func (w *waiter) awaitLoss(ctx context.Context) error {
	w.q.l.callers.Go(func() { _ = w.s.Verify(ctx) }) // if that fails, the next renewal tells
	select {
	case <-w.s.Context().Done():
		return nil
	case <-ctx.Done():
		return retry.ContextError(ctx)
	}
}

// enqueueOnce puts the key at the end of the queue. If nobody who blocks is ahead, that is the grant: nobody can come in front of
// it any more.
func (w *waiter) enqueueOnce(ctx context.Context) error {
	resp, err := w.q.l.commitCreation(ctx, txn{
		op:     "enqueue",
		cmps:   []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(w.key), "=", 0)},
		then:   []clientv3.Op{newest(w.q.prefix, w.pageSize), w.put(w.value)}, // the read comes first: it does not see the key
		orElse: []clientv3.Op{clientv3.OpGet(w.key)},
	})
	w.late = int32(resp.unknown) //nolint:gosec // a few
	if err != nil {
		return err
	}
	if !resp.Succeeded { // an attempt whose answer was lost has done it: who was ahead then is not known
		w.late = max(w.late-1, 0)
		w.found(resp.get(0).GetKvs()[0].GetCreateRevision())
		return nil
	}
	w.found(resp.revision())
	w.ahead = parsePage(w.q.prefix, w.key, resp.revision(), resp.get(0))
	_, err = w.evaluate(w.mod, w.ahead)
	return err
}

// found notes that the key is there.
func (w *waiter) found(create int64) { w.create, w.mod = create, create }

// admit notes that the key was put when it was admitted already.
func (w *waiter) admit(create int64) {
	w.found(create)
	w.token = create
}

// evaluate decides on what stands ahead of the key, all of one revision, newest first: the waiter is granted, or blocked, or,
// undecided, more has to be read. Grants come from nowhere else, but for requests that put a key only if nobody is ahead.
func (w *waiter) evaluate(mod int64, ahead *page) (decided bool, err error) {
	blockers, dead := w.rule(ahead.entries)
	switch {
	case dead != nil:
		return true, w.q.l.blockedBy(w.q.name, dead)
	case len(blockers) > 0:
		w.blockers, w.seen = slices.Clone(blockers), ahead.rev
	case !ahead.complete:
		return false, nil
	default:
		w.mod, w.token, w.blockers = mod, ahead.rev, nil
	}
	return true, nil
}

// The sizes of the pages of a look, in multiples of the kind's. More is needed only if keys of longer names are in between.
const morePages = 16

// look reads the own key and those ahead of it, at one revision: one RPC, or up to three if many keys of longer names
// lie in between. It is linearizable.
func (w *waiter) look(ctx context.Context) error {
	size := w.pageSize
	if size > 0 {
		size++ // the own key
	}
	for _, limit := range []int64{size, size * morePages, 0} {
		resp, err := w.q.l.read(ctx, "look", newest(w.q.prefix, limit, clientv3.WithMaxCreateRev(w.create)))
		if err != nil {
			return err
		}
		p := parsePage(w.q.prefix, "", resp.revision(), resp.get(0))
		if decided, err := w.evaluateOwn(p); decided || err != nil {
			return err
		}
	}
	return nil
}

// evaluateOwn is evaluate for a page that has the own key.
func (w *waiter) evaluateOwn(p *page) (decided bool, err error) {
	i := slices.IndexFunc(p.entries, func(e entry) bool { return e.key == w.key })
	if i < 0 {
		w.lose(errKeyGone)
		return true, w.lostErr()
	}
	own := p.entries[i]
	if err := w.checkOwn(own.create, own.lease); err != nil {
		return true, err
	}
	return w.evaluate(own.mod, &page{entries: p.entries[i+1:], complete: p.complete, rev: p.rev})
}

// checkOwn notes a loss if the key, as it was found, is not ours any more.
func (w *waiter) checkOwn(create int64, on clientv3.LeaseID) error {
	switch {
	case create != w.create:
		w.lose(errKeyGone)
	case on != w.s.ID():
		w.lose(errOverwritten)
	default:
		return nil
	}
	return w.lostErr()
}

// maxWatched is how many blockers are watched one by one; for more the whole queue is.
const maxWatched = 8

// targets are the watches that tell when a blocker goes, and, if that is the whole queue, whose deletion matters.
func (w *waiter) targets() (targets []keywatch.Target, relevant map[string]bool) {
	if len(w.blockers) > maxWatched {
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

// await waits until the waiter is granted. It ends with the session, with the own key, with ctx, and if the waiter can never be
// admitted. The cost is one look for each blocker that goes, one more request if etcd was written to before the
// watch on the blocker was open, one look every 30 s, and, while no watch can be open, the queue is polled.
func (w *waiter) await(ctx context.Context) error {
	if w.token != 0 {
		return w.lostErr()
	}
	l := w.q.l
	l.counts.waiting.Add(1)
	defer l.counts.waiting.Add(-1)
	ctx, stop := w.bind(ctx)
	defer stop()
	watch := w.q.newWatch()
	defer watch.close()
	pauses := newBackoff(maxBackoff)
	for w.token == 0 {
		if err := cmp.Or(w.lostErr(), retry.ContextError(ctx)); err != nil {
			return err
		}
		var polled *page
		var err error
		if len(w.blockers) > 0 {
			watch.set(w.targets())
			polled, err = watch.await(ctx, &w.seen, w.confirm)
		}
		switch {
		case err != nil:
		case polled != nil:
			_, err = w.evaluateOwn(polled)
		default:
			err = w.look(ctx)
		}
		switch {
		case err == nil:
			pauses.Reset()
		case ctx.Err() != nil || permanent(err) || w.lostErr() != nil:
			return cmp.Or(w.lostErr(), err)
		default:
			sleep(ctx, pauses.NextBackOff())
		}
	}
	return w.lostErr()
}

// confirm reports whether the only blocker is still there, and as of when: one RPC. Whether it is there is not enough: other
// clients use their keys again, and a key that was created again is behind the waiter.
func (w *waiter) confirm(ctx context.Context) (unchanged bool, rev int64, err error) {
	if len(w.blockers) != 1 {
		w.q.l.counts.confirmed.Add(1)
		return false, 0, nil // a look is as cheap
	}
	b := &w.blockers[0]
	resp, err := w.q.l.read(ctx, "confirm blocker", clientv3.OpGet(b.key))
	if err != nil {
		return false, 0, err
	}
	w.q.l.counts.confirmed.Add(1)
	kvs := resp.get(0).GetKvs()
	return len(kvs) > 0 && kvs[0].GetCreateRevision() == b.create, resp.revision(), nil
}

// bind returns a context that also ends with the waiter's session.
func (w *waiter) bind(ctx context.Context) (bound context.Context, stop func()) {
	bound, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(w.s.Context(), func() { cancel(lost(w.s.Err())) })
	return bound, func() {
		unlink()
		cancel(nil)
	}
}

// lose notes why the key is not ours any more; whoever holds by it is told at once.
func (w *waiter) lose(cause error) {
	w.mu.Lock()
	if w.lost == nil {
		w.lost = lost(cause)
	}
	h := w.hold
	w.mu.Unlock()
	if h != nil {
		h.lose(cause)
	}
}

// lostErr is why the waiter is of no use: its session has ended, or its key is gone.
func (w *waiter) lostErr() error {
	if err := w.s.Err(); err != nil {
		return lost(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}
