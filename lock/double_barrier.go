package lock

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keywatch"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// DoubleBarrier synchronizes n parties at the entry and at the exit. They begin together, and none
// continues before all have finished or are gone.
//
// Unlike the other types of this package, a DoubleBarrier is one party: each goroutine that takes
// part makes its own. It can be used again after Leave. Parties form rounds as those of a [Barrier]
// do, and leave with those of their round. Another round may enter meanwhile.
type DoubleBarrier struct {
	b      *Barrier
	inCall atomic.Bool // a call is in progress
	p      *party      // nil while outside
	round  string
}

// DoubleBarrier returns a party of the double barrier of the given name for n parties. The rules of
// [Locker.Barrier] apply to name and n. It sends nothing. A Barrier of the same name is independent
// of it.
func (l *Locker) DoubleBarrier(name string, n int) *DoubleBarrier {
	return &DoubleBarrier{b: l.barrier(name, n, doubleBarrierAdmission)}
}

// Enter waits until n parties want to enter. It waits and fails as [Barrier.Wait] does; after an
// error the party is outside. It returns [ErrInvalid] if the party is already inside, or if another
// call of the party is in progress.
//
// It costs one RPC, one more for the last party, which opens the round, and those of [Barrier.Wait]
// for a party that waits. A party that is inside is not notified of the end of its session. It
// learns of it from Leave.
func (d *DoubleBarrier) Enter(ctx context.Context) error {
	if err := d.enter(ctx); err != nil {
		return opError("enter", d.b.kind.name, err)
	}
	return nil
}

func (d *DoubleBarrier) enter(ctx context.Context) (err error) {
	if !d.inCall.CompareAndSwap(false, true) {
		return errConcurrentCall
	}
	defer d.inCall.Store(false)
	if d.p != nil {
		return errs.Invalidf("already inside")
	}
	d.p, d.round, err = d.b.awaitRound(ctx)
	return err
}

// Leave marks the party as finished, and waits until all parties of its round have left or are gone
// because their sessions have ended. Only ctx bounds the wait. A party whose ctx ends has still
// left. If the session of the party has ended, or its key was deleted, the others may have left
// without it, and Leave returns [ErrLost] at once. It returns [ErrInvalid] if the party is not
// inside, or if another call of the party is in progress. If etcd does not answer, the key is
// removed in the background.
//
// It costs one RPC for the last party. The others watch the key of one party that is inside, and
// read the queue again when it is deleted: one more RPC for each key that they have to watch.
func (d *DoubleBarrier) Leave(ctx context.Context) error {
	if err := d.leave(ctx); err != nil {
		return opError("leave", d.b.kind.name, err)
	}
	return nil
}

func (d *DoubleBarrier) leave(ctx context.Context) error {
	if d.b.err != nil {
		return d.b.err
	}
	if !d.inCall.CompareAndSwap(false, true) {
		return errConcurrentCall
	}
	defer d.inCall.Store(false)
	ctx, done, err := d.b.l.startCall(ctx)
	if err != nil {
		return err
	}
	defer done()
	if d.p == nil {
		return errs.Invalidf("not inside")
	}
	p := d.p
	d.p = nil
	defer p.q.release()
	if err := p.lostErr(); err != nil {
		p.discard()
		return err
	}
	// If the removal fails, it continues in the background, and this party has left.
	resp, err := p.removeKey(ctx, clientv3.OpGet(p.q.prefix, clientv3.WithPrefix()))
	var page *queuePage
	switch {
	case err == nil && resp.Succeeded:
		page = parsePage(p.q.prefix, p.key, resp.revision(), resp.rangeResponse(1))
	case err != nil && (ctx.Err() != nil || isPermanent(err) || errors.Is(err, ErrLost)):
		return &cleanedUpError{err}
	}
	return p.awaitRoundEmpty(ctx, d.round, page)
}

// awaitRoundEmpty waits until no party is in the given round. No party joins a round that is open,
// so that the result stays true. The party's own key counts as well. page is the queue as read
// after the round was opened, or nil if it was not read.
func (p *party) awaitRoundEmpty(ctx context.Context, round string, page *queuePage) (err error) {
	l := p.q.l
	l.counters.waiting.Add(1)
	defer l.counters.waiting.Add(-1)
	isInside := func(e entry) bool { return e.key == p.key || e.isOpened() && e.value == round }
	watch := p.q.newWatch()
	defer watch.close()
	backoffs := newBackoff(maxBackoff)
	for {
		if page == nil {
			page, err = p.q.readAll(ctx)
		}
		switch {
		case err != nil && (ctx.Err() != nil || isPermanent(err)):
			return err
		case err != nil:
			_ = retry.Sleep(ctx, backoffs.NextBackOff())
			continue
		}
		i := slices.IndexFunc(page.entries, isInside)
		if i < 0 {
			return nil
		}
		// Any of them will do, because all must leave.
		watch.setTargets([]keywatch.Target{{Key: page.entries[i].key, Filter: keywatch.Deletions}}, nil)
		rev := page.rev
		if page, err = watch.await(ctx, &rev, watch.requireCheck); err != nil {
			return err
		}
	}
}

var errConcurrentCall = errs.Invalidf("another call is in progress")
