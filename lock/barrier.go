package lock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keywatch"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// maxParties is the largest number of parties of a barrier. One transaction with an operation for
// each party opens a round, and etcd allows 128 operations.
const maxParties = 128

// Barrier makes n parties wait for each other. It opens when n of them wait at it, and lets these n
// pass. It is a small value without state of its own, and safe for concurrent use. Each call of
// Wait is a party, also within one process.
//
// A barrier can be used again at once, and any number of times. Parties form rounds of n in the
// order of their arrival. Party n+1 waits for the next round, even if the first n have not returned
// yet.
//
// n is not stored in etcd, and must be the same for all parties.
type Barrier struct {
	l    *Locker
	kind waiterKind
	n    int
	err  error
}

// Barrier returns the barrier of the given name for n parties, 1 to 128. It sends nothing. The name
// follows the rules of [Locker.Mutex]. If the name or n is invalid, every call returns
// [ErrInvalid].
func (l *Locker) Barrier(name string, n int) *Barrier { return l.barrier(name, n, barrierAdmission) }

func (l *Locker) barrier(name string, n int, a *admission) *Barrier {
	dir, _ := l.dirs()
	b := &Barrier{
		l: l, n: n, err: errors.Join(l.err, l.checkName(name)),
		kind: waiterKind{name: name, prefix: dir + name + "/" + barrierDir, value: l.owner, admission: a},
	}
	if n < 1 || n > maxParties {
		b.err = errors.Join(b.err, fmt.Errorf("%w: a barrier for %d: it must be 1 to %d", errs.Invalid, n, maxParties))
	}
	return b
}

// Wait waits until n parties wait, and then returns nil. Only ctx bounds the wait. If ctx ends, the
// party counts until its key is removed, which happens at once if etcd answers. If its process
// dies, the party counts until its lease ends. Wait returns [ErrLost] if the session ends, or the
// key of the party is deleted, while it waits.
//
// A party that gives up, or is lost, at the moment in which the barrier opens may have been
// counted. The other parties still pass.
//
// Wait costs two RPCs, and one more for the last party, which opens the round. The second RPC
// removes the key, and Wait does not wait for it. A party that has to wait watches its key, and
// sends one more RPC if etcd was written to before the watch was open.
func (b *Barrier) Wait(ctx context.Context) error {
	w, _, err := b.awaitRound(ctx)
	if err != nil {
		return fail("wait", b.kind.name, err)
	}
	w.discard()
	w.q.release()
	return nil
}

// pass waits until the round of the caller is open. It returns the round and the waiter, which is
// still in the queue and keeps its use of the queue.
func (b *Barrier) awaitRound(ctx context.Context) (w *waiter, round string, err error) {
	if b.err != nil {
		return nil, "", b.err
	}
	ctx, done, err := b.l.startCall(ctx)
	if err != nil {
		return nil, "", err
	}
	defer done()
	q := b.l.retainQueue(&b.kind)
	if w, err = q.enqueue(ctx, &b.kind); err == nil {
		if round, err = w.awaitRound(ctx, b.n); err == nil {
			return w, round, nil
		}
		w.discard()
	}
	q.release()
	return nil, "", err
}

// awaitRound waits until a round that includes the waiter is open. It opens the round if the waiter
// is the last of it.
//
// One transaction writes the round into the keys of all its parties. A party that reads its key
// later finds the round there, whatever the others have done meanwhile. Only the last party opens a
// round. The parties ahead only become fewer. So a party that is not the last of its round, or of a
// later one, never becomes the last, and needs to watch its own key only.
func (w *waiter) awaitRound(ctx context.Context, n int) (round string, err error) {
	l := w.q.l
	l.counters.waiting.Add(1)
	defer l.counters.waiting.Add(-1)
	ctx, stop := w.bindSession(ctx)
	defer stop()
	watch := w.q.newWatch()
	defer watch.close()
	own := keywatch.Target{Key: w.key}
	all := keywatch.Target{Key: w.q.prefix, Prefix: true}
	page := w.ahead // nil if it must be read
	if page != nil {
		page.entries = slices.Insert(page.entries, 0, entry{key: w.key, createRev: w.createRev, modRev: w.createRev, lease: w.session.ID()})
	}
	var put *mvccpb.KeyValue // the own key as last read
	confirmWaits := func(ctx context.Context) (unchanged bool, rev int64, err error) {
		put, rev, err = w.readOwnKey(ctx)
		return put != nil && put.GetModRevision() == w.createRev, rev, err
	}
	backoffs := newBackoff(maxBackoff)
	for {
		if err := cmp.Or(w.lostErr(), retry.ContextError(ctx)); err != nil {
			return "", err
		}
		if round, err := w.recordedRound(put, watch.lastPut(own)); round != "" || err != nil {
			return round, err
		}
		round, waiting, err := w.evaluateRound(ctx, &page, n)
		switch {
		case round != "":
			return round, nil
		case err != nil && (ctx.Err() != nil || isPermanent(err) || w.lostErr() != nil):
			return "", cmp.Or(w.lostErr(), err)
		case err != nil:
			sleep(ctx, backoffs.NextBackOff())
			page = nil
			continue
		case waiting == n: // a party left before the transaction
			page = nil
			continue
		}
		targets, confirm := []keywatch.Target{own}, confirmWaits
		if waiting > n {
			targets, confirm = append(targets, all), watch.requireCheck
		}
		watch.setTargets(targets, nil)
		seen := page.rev
		page, err = watch.await(ctx, &seen, confirm)
		if err != nil {
			return "", cmp.Or(w.lostErr(), err)
		}
	}
}

// roundOf returns the open round that is recorded in one of the given versions of the own key, or
// "".
func (w *waiter) recordedRound(versions ...*mvccpb.KeyValue) (round string, err error) {
	for _, own := range versions {
		if own.GetModRevision() > w.createRev {
			return string(own.GetValue()), w.checkOwnKey(own.GetCreateRevision(), clientv3.LeaseID(own.GetLease()))
		}
	}
	return "", nil
}

// evaluateRound returns the waiter's round if it is open, and opens it if the waiter is the last of
// it. Otherwise it returns the number of parties that wait, up to and including the waiter. It
// reads the queue if *read is nil.
func (w *waiter) evaluateRound(ctx context.Context, read **queuePage, n int) (round string, waiting int, err error) {
	if *read == nil {
		if *read, err = w.q.readAll(ctx); err != nil {
			return "", 0, err
		}
	}
	page := *read
	i := slices.IndexFunc(page.entries, func(e entry) bool { return e.key == w.key })
	if i < 0 {
		w.markLost(errKeyDeleted)
		return "", 0, w.lostErr()
	}
	own := &page.entries[i]
	if err := w.checkOwnKey(own.createRev, own.lease); err != nil {
		return "", 0, err
	}
	if own.isOpened() {
		return own.value, 0, nil
	}
	members := w.roundMembers(page.entries[i:])
	if len(members) == n {
		round, err = w.openRound(ctx, members)
	}
	return round, len(members), err
}

// readOwn reads the own key, and returns nil if it does not exist. It costs one RPC.
func (w *waiter) readOwnKey(ctx context.Context) (own *mvccpb.KeyValue, rev int64, err error) {
	resp, err := w.q.l.read(ctx, "read own key", clientv3.OpGet(w.key))
	if err != nil {
		return nil, 0, err
	}
	w.q.l.counters.confirmed.Add(1)
	if kvs := resp.rangeResponse(0).GetKvs(); len(kvs) > 0 {
		own = kvs[0]
	}
	return own, resp.revision(), nil
}

// opened reports whether the key of a party was put again, which only opening a round does.
func (e *entry) isOpened() bool { return e.modRev > e.createRev }

// members returns the round of which the waiter would be the last: the parties that wait, up to and
// including the waiter, oldest first. The first of the entries is the waiter's own.
func (w *waiter) roundMembers(entries []entry) (members []entry) {
	for _, e := range slices.Backward(entries) {
		if e.hasSuffix(w.suffix) && !e.isOpened() {
			members = append(members, e)
		}
	}
	return members
}

// open opens a round if all of its members still wait. It costs one RPC. The round is "" if a
// member has left.
func (w *waiter) openRound(ctx context.Context, members []entry) (round string, err error) {
	round = "open " + strconv.FormatInt(members[0].createRev, 10)
	t := txn{op: "open barrier"}
	for _, e := range members {
		t.cmps = append(t.cmps, clientv3.Compare(clientv3.ModRevision(e.key), "=", e.createRev))
		t.then = append(t.then, clientv3.OpPut(e.key, round, clientv3.WithIgnoreLease()))
	}
	for {
		resp, err := w.q.l.commit(ctx, t)
		switch {
		case err == nil && resp.Succeeded:
			return round, nil
		case err == nil:
			return "", nil
		case ctx.Err() != nil || isPermanent(err):
			return "", err
		}
		sleep(ctx, maxBackoff)
	}
}
