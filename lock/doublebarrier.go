package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// DoubleBarrier holds n parties together at the entry and at the exit: they begin together, and none goes on before all
// have finished, or are gone.
//
// Other than the values of this package, a DoubleBarrier is one party: each goroutine that takes part makes one of its own.
// After Leave it can be used again. The parties make up rounds as those of a [Barrier] do, and leave with those they
// have entered with; another round may enter meanwhile.
type DoubleBarrier struct {
	b     *Barrier
	busy  atomic.Bool // one call at a time
	p     *place      // while inside
	round string
}

// DoubleBarrier returns a party of the double barrier of a name for n parties. For name and n the rules of
// [Locker.Barrier] hold. It sends nothing. It has nothing to do with the Barrier of the same name.
func (l *Locker) DoubleBarrier(name string, n int) *DoubleBarrier {
	return &DoubleBarrier{b: l.barrier(name, n, markDouble)}
}

// Enter waits until n parties want to enter, as [Barrier.Wait] does, and fails as that does; the party is outside then. A
// party that is inside already, or is used by another goroutine at the same time, is [ErrInvalid].
//
// One RPC; one more for the last to come, which opens, and one more and a watch for the first time on a name. The watch is
// kept until Leave. Who is inside is told of nothing: that its session has ended it finds out when it leaves.
func (d *DoubleBarrier) Enter(ctx context.Context) error {
	if err := d.enter(ctx); err != nil {
		return fail("enter", d.b.spec.name, err)
	}
	return nil
}

func (d *DoubleBarrier) enter(ctx context.Context) (err error) {
	if !d.busy.CompareAndSwap(false, true) {
		return errBusy
	}
	defer d.busy.Store(false)
	if d.p != nil {
		return fmt.Errorf("%w: inside already", errs.Invalid)
	}
	d.p, d.round, err = d.b.pass(ctx)
	return err
}

// Leave says that the party has finished, and waits until all who have entered with it have left too, or are gone: their
// sessions have ended. The wait is bounded by ctx alone; a party that gives up has left all the same. Where the party itself
// is gone, since its session has ended or its key was deleted, the others may have left without it: that is [ErrLost], at
// once. A party that is not inside is [ErrInvalid]. Where etcd does not answer for now, the key is removed in the background.
//
// One RPC: that the others have left is told by the watch.
func (d *DoubleBarrier) Leave(ctx context.Context) error {
	if err := d.leave(ctx); err != nil {
		return fail("leave", d.b.spec.name, err)
	}
	return nil
}

func (d *DoubleBarrier) leave(ctx context.Context) error {
	if d.b.bad != nil {
		return d.b.bad
	}
	if !d.busy.CompareAndSwap(false, true) {
		return errBusy
	}
	defer d.busy.Store(false)
	ctx, done, err := d.b.l.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if d.p == nil {
		return fmt.Errorf("%w: not inside", errs.Invalid)
	}
	p := d.p
	d.p = nil
	defer p.q.exit()
	if why := p.trouble(); why != nil {
		p.discard()
		return why
	}
	// Where the removal fails it goes on in the background, and this party is out.
	if err := p.remove(ctx); err != nil && (ctx.Err() != nil || hopeless(err) || errors.Is(err, ErrLost)) {
		return &settled{err}
	}
	return p.part(ctx, d.round)
}

// part waits until nobody is in a round any more. Nobody ever joins one that is open, so that this stays so. The place's own
// key counts, too: what is known of the queue is from after the key came, and if it is gone there, from after the opening.
func (p *place) part(ctx context.Context, round string) error {
	p.q.l.counts.waiting.Add(1)
	defer p.q.l.counts.waiting.Add(-1)
	inside := func(e entry) bool { return e.key == p.key || e.opened() && e.value == round }
	queue := p.q.view(p.create)
	defer queue.stop()
	for {
		entries, _, err := queue.next(ctx)
		if err != nil || !slices.ContainsFunc(entries, inside) {
			return err
		}
	}
}

var errBusy = fmt.Errorf("%w: used by another goroutine at the same time", errs.Invalid)
