package lock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// partiesMost is how many parties a barrier can have. It is opened by one transaction, with an operation for each party;
// etcd takes 128.
const partiesMost = 128

// Barrier lets n parties wait for each other: it opens when n of them wait at it, and lets these n go. It is a small value
// with no state of its own, and safe for concurrent use. Each call of Wait is a party, also within one process.
//
// A barrier can be used again at once, and any number of times. The parties make up rounds in the order in which they
// came, n to a round; whoever comes as number n+1 waits for the next round, even if the first n have not gone yet.
//
// n is not kept in etcd, and has to be the same for all parties.
type Barrier struct {
	l    *Locker
	spec spec
	n    int
	bad  error
}

// Barrier returns the barrier of a name for n parties, 1 to 128. It sends nothing. What is wrong with n, or with the name,
// for which the rules of [Locker.Mutex] hold, is returned by every call.
func (l *Locker) Barrier(name string, n int) *Barrier { return l.barrier(name, n, markParty) }

func (l *Locker) barrier(name string, n int, mark string) *Barrier {
	dir, _ := l.dirs()
	b := &Barrier{
		l: l, n: n, bad: errors.Join(l.bad, l.checkName(name)),
		spec: spec{name: name, prefix: dir + name + "/" + barDir, value: l.owner, mark: mark, rule: anybody},
	}
	if n < 1 || n > partiesMost {
		b.bad = errors.Join(b.bad, fmt.Errorf("%w: a barrier for %d: it must be 1 to %d", errs.Invalid, n, partiesMost))
	}
	return b
}

// anybody admits everybody: a barrier is no queue.
func anybody([]entry, entry) (bool, *entry) { return true, nil }

// Wait waits until n parties wait, and returns nil then. The wait is bounded by ctx alone. A party that gives up, since ctx
// has ended, does not count any more as soon as its key is removed, which is at once where etcd answers; one whose process
// has died, when its lease ends. It fails with [ErrLost] when the session ends, or its key is deleted, while it waits.
//
// A party that gives up, or is lost, in the very moment in which the barrier opens may have been one of the n: the others
// go all the same.
//
// Two RPCs, the last of which, to remove the key, is not waited for; one more for the last to come, which opens, and one more
// and a watch for the first time on a name.
func (b *Barrier) Wait(ctx context.Context) error {
	p, _, err := b.pass(ctx)
	if err != nil {
		return fail("wait", b.spec.name, err)
	}
	p.discard()
	p.q.exit()
	return nil
}

// pass waits until the barrier is open, and returns the place, which is still there and uses its queue, and the round.
func (b *Barrier) pass(ctx context.Context) (p *place, round string, err error) {
	if b.bad != nil {
		return nil, "", b.bad
	}
	ctx, done, err := b.l.begin(ctx)
	if err != nil {
		return nil, "", err
	}
	defer done()
	q := b.l.enter(b.spec.prefix)
	if p, err = q.enqueue(ctx, b.spec); err == nil {
		if round, err = p.meet(ctx, b.n); err == nil {
			return p, round, nil
		}
		p.discard()
	}
	q.exit()
	return nil, "", err
}

// meet waits until the place is in a round that was opened, and opens it where the place is the last of its round.
//
// That a round is open stands in the key of each of its parties, written by one transaction for all: whoever looks late
// finds it there, whatever the others have done meanwhile. The last one opens, nobody else: until it does it is missing.
func (p *place) meet(ctx context.Context, n int) (round string, err error) {
	p.q.l.counts.waiting.Add(1)
	defer p.q.l.counts.waiting.Add(-1)
	ctx, stop := p.bind(ctx)
	defer stop()
	queue := p.q.view(p.create)
	defer queue.stop()
	for {
		entries, asked, err := queue.next(ctx)
		own, members := p.members(entries)
		if asked {
			p.standsAt(own)
		}
		switch why := cmp.Or(p.trouble(), err); {
		case why != nil:
			return "", why
		case len(own) == 0:
		case own[0].opened():
			return own[0].value, nil
		case len(members) == n:
			if round, err = p.open(ctx, members); round != "" || err != nil {
				return round, cmp.Or(p.trouble(), err)
			}
		}
	}
}

// bind returns a context that also ends with the place's session.
func (p *place) bind(ctx context.Context) (bound context.Context, stop func()) {
	bound, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(p.s.Context(), func() { cancel(lost(p.s.Err())) })
	return bound, func() {
		unlink()
		cancel(nil)
	}
}

// opened reports whether the key of a party was put again, which is done to open.
func (e *entry) opened() bool { return e.mod > e.create }

// members returns the place as it stands, none where it is not there, and the round of which it would be the last: all who
// wait, up to it.
func (p *place) members(entries []entry) (own, members []entry) {
	for i, e := range entries {
		if !e.marked(p.spec.mark) {
			continue
		}
		if !e.opened() {
			members = append(members, e)
		}
		if e.key == p.key {
			return entries[i : i+1], members
		}
	}
	return nil, nil
}

// open opens a round, if all of its members still wait: one RPC, which is repeated until the answer is definite. The round
// is "" where somebody has left, or where etcd does not answer for now.
func (p *place) open(ctx context.Context, members []entry) (round string, err error) {
	round = "open " + strconv.FormatInt(members[0].create, 10)
	var t txn
	for _, e := range members {
		t.cmps = append(t.cmps, clientv3.Compare(clientv3.ModRevision(e.key), "=", e.create))
		t.then = append(t.then, clientv3.OpPut(e.key, round, clientv3.WithIgnoreLease()))
	}
	for {
		resp, err := p.q.l.definite(ctx, t)
		switch {
		case err == nil && resp.Succeeded:
			return round, nil
		case err == nil:
			return "", nil // what has changed is delivered
		case ctx.Err() != nil || hopeless(err):
			return "", err
		}
		sleep(ctx, pauseMost)
	}
}
