package lock

import (
	"cmp"
	"context"
	"errors"
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
// n is not stored in etcd, and must be the same for all parties, which may otherwise wait forever.
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
		b.err = errors.Join(b.err, errs.Invalidf("barrier for %d parties: must be 1 to %d", n, maxParties))
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
	p, _, err := b.awaitRound(ctx)
	if err != nil {
		return opError("wait", b.kind.name, err)
	}
	p.discard()
	p.q.release()
	return nil
}

// awaitRound waits until the round of the caller is open. It returns the party, which is still in
// the queue and keeps its use of the queue, and the round.
func (b *Barrier) awaitRound(ctx context.Context) (p *party, round string, err error) {
	if b.err != nil {
		return nil, "", b.err
	}
	ctx, done, err := b.l.startCall(ctx)
	if err != nil {
		return nil, "", err
	}
	defer done()
	q := b.l.retainQueue(&b.kind)
	w, err := q.enqueue(ctx, &b.kind)
	if err == nil {
		p = &party{w}
		if round, err = p.awaitRound(ctx, b.n); err == nil {
			return p, round, nil
		}
		p.discard()
	}
	q.release()
	return nil, "", err
}

// party is a key that counts at a barrier.
type party struct{ *waiter }

// awaitRound waits until a round that includes the waiter is open. It opens the round if the waiter
// is the last of it.
//
// One transaction writes the round into the keys of all its parties. A party that reads its key
// later finds the round there, whatever the others have done meanwhile. Only the last party opens a
// round. The parties ahead only become fewer. So a party that is not the last of its round, or of a
// later one, never becomes the last, and needs to watch its own key only.
func (p *party) awaitRound(ctx context.Context, n int) (round string, err error) {
	l := p.q.l
	l.counters.waiting.Add(1)
	defer l.counters.waiting.Add(-1)
	ctx, stop := p.bindSession(ctx)
	defer stop()
	watch := p.q.newWatch()
	defer watch.close()
	ownTarget := keywatch.Target{Key: p.key}
	allTarget := keywatch.Target{Key: p.q.prefix, Prefix: true}
	page := p.ahead // nil if it must be read
	if page != nil {
		page.entries = slices.Insert(page.entries, 0, entry{key: p.key, createRev: p.createRev, modRev: p.createRev, lease: p.session.ID()})
	}
	var ownKV *mvccpb.KeyValue // the own key as last read
	confirmWaits := func(ctx context.Context) (unchanged bool, rev int64, err error) {
		ownKV, rev, err = p.readOwnKey(ctx)
		return ownKV != nil && ownKV.GetModRevision() == p.createRev, rev, err
	}
	backoffs := newBackoff(maxBackoff)
	for {
		if err := cmp.Or(p.lostErr(), retry.ContextError(ctx)); err != nil {
			return "", err
		}
		if round, err := p.recordedRound(ownKV, watch.lastPut(ownTarget)); round != "" || err != nil {
			return round, err
		}
		round, waiting, err := p.evaluateRound(ctx, &page, n)
		switch {
		case round != "":
			return round, nil
		case err != nil && (ctx.Err() != nil || isPermanent(err) || p.lostErr() != nil):
			return "", cmp.Or(p.lostErr(), err)
		case err != nil:
			_ = retry.Sleep(ctx, backoffs.NextBackOff())
			page = nil
			continue
		case waiting == n: // a party left before the transaction
			page = nil
			continue
		}
		targets, confirm := []keywatch.Target{ownTarget}, confirmWaits
		if waiting > n {
			targets, confirm = append(targets, allTarget), watch.requireCheck
		}
		watch.setTargets(targets, nil)
		rev := page.rev
		page, err = watch.await(ctx, &rev, confirm)
		if err != nil {
			return "", cmp.Or(p.lostErr(), err)
		}
	}
}

// recordedRound returns the open round that is recorded in one of the given versions of the own
// key, or "".
func (p *party) recordedRound(versions ...*mvccpb.KeyValue) (round string, err error) {
	for _, kv := range versions {
		if kv.GetModRevision() > p.createRev {
			return string(kv.GetValue()), p.check(kv.GetCreateRevision(), clientv3.LeaseID(kv.GetLease()))
		}
	}
	return "", nil
}

// evaluateRound returns the waiter's round if it is open, and opens it if the waiter is the last of
// it. Otherwise it returns the number of parties that wait, up to and including the waiter. It
// reads the queue if *read is nil.
func (p *party) evaluateRound(ctx context.Context, read **queuePage, n int) (round string, waiting int, err error) {
	if *read == nil {
		if *read, err = p.q.readAll(ctx); err != nil {
			return "", 0, err
		}
	}
	page := *read
	i := slices.IndexFunc(page.entries, func(e entry) bool { return e.key == p.key })
	if i < 0 {
		p.markLost(errKeyDeleted)
		return "", 0, p.lostErr()
	}
	own := &page.entries[i]
	if err := p.check(own.createRev, own.lease); err != nil {
		return "", 0, err
	}
	if own.isOpened() {
		return own.value, 0, nil
	}
	members := p.roundMembers(page.entries[i:])
	if len(members) == n {
		round, err = p.openRound(ctx, members)
	}
	return round, len(members), err
}

// readOwnKey reads the own key, and returns nil if it does not exist. It costs one RPC.
func (p *party) readOwnKey(ctx context.Context) (kv *mvccpb.KeyValue, rev int64, err error) {
	resp, err := p.q.l.read(ctx, "read own key", clientv3.OpGet(p.key))
	if err != nil {
		return nil, 0, err
	}
	p.q.l.counters.confirmed.Add(1)
	if kvs := resp.rangeResponse(0).GetKvs(); len(kvs) > 0 {
		kv = kvs[0]
	}
	return kv, resp.revision(), nil
}

// isOpened reports whether the key of a party was put again, which only the opening of a round
// does.
func (e *entry) isOpened() bool { return e.modRev > e.createRev }

// roundMembers returns the round of which the waiter would be the last: the parties that wait, up
// to and including the waiter, oldest first. The first of the entries is the waiter's own.
func (p *party) roundMembers(entries []entry) (members []entry) {
	for _, e := range slices.Backward(entries) {
		if e.hasSuffix(p.suffix) && !e.isOpened() {
			members = append(members, e)
		}
	}
	return members
}

// openRound opens a round if all of its members still wait. It costs one RPC. The round is "" if a
// member has left.
func (p *party) openRound(ctx context.Context, members []entry) (round string, err error) {
	round = "open " + strconv.FormatInt(members[0].createRev, 10)
	t := txn{op: "open barrier"}
	for _, e := range members {
		t.cmps = append(t.cmps, clientv3.Compare(clientv3.ModRevision(e.key), "=", e.createRev))
		t.then = append(t.then, clientv3.OpPut(e.key, round, clientv3.WithIgnoreLease()))
	}
	for {
		resp, err := p.q.l.commit(ctx, t)
		switch {
		case err == nil && resp.Succeeded:
			return round, nil
		case err == nil:
			return "", nil
		case ctx.Err() != nil || isPermanent(err):
			return "", err
		}
		_ = retry.Sleep(ctx, maxBackoff)
	}
}
