package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keywatch"
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
	w     *waiter     // while inside
	round string
}

// DoubleBarrier returns a party of the double barrier of a name for n parties. For name and n the rules of
// [Locker.Barrier] hold. It sends nothing. It has nothing to do with the Barrier of the same name.
func (l *Locker) DoubleBarrier(name string, n int) *DoubleBarrier {
	return &DoubleBarrier{b: l.barrier(name, n, doubleBarrier)}
}

// Enter waits until n parties want to enter, as [Barrier.Wait] does, and fails as that does; the party is outside then. A
// party that is inside already, or is used by another goroutine at the same time, is [ErrInvalid].
//
// One RPC; one more for the last to come, which opens, and as for [Barrier.Wait] for those who wait. Who is inside is told of nothing: that its session has ended it finds out when it leaves.
func (d *DoubleBarrier) Enter(ctx context.Context) error {
	if err := d.enter(ctx); err != nil {
		return fail("enter", d.b.kind.name, err)
	}
	return nil
}

func (d *DoubleBarrier) enter(ctx context.Context) (err error) {
	if !d.busy.CompareAndSwap(false, true) {
		return errBusy
	}
	defer d.busy.Store(false)
	if d.w != nil {
		return fmt.Errorf("%w: inside already", errs.Invalid)
	}
	d.w, d.round, err = d.b.pass(ctx)
	return err
}

// Leave says that the party has finished, and waits until all who have entered with it have left too, or are gone: their
// sessions have ended. The wait is bounded by ctx alone; a party that gives up has left all the same. Where the party itself
// is gone, since its session has ended or its key was deleted, the others may have left without it: that is [ErrLost], at
// once. A party that is not inside is [ErrInvalid]. Where etcd does not answer for now, the key is removed in the background.
//
// One RPC for the last to leave. The others watch one of those who are inside, and read the queue when it has left: one more
// for each that they have to watch.
func (d *DoubleBarrier) Leave(ctx context.Context) error {
	if err := d.leave(ctx); err != nil {
		return fail("leave", d.b.kind.name, err)
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
	if d.w == nil {
		return fmt.Errorf("%w: not inside", errs.Invalid)
	}
	w := d.w
	d.w = nil
	defer w.q.exit()
	if err := w.lostErr(); err != nil {
		w.discard()
		return err
	}
	// If the removal fails it goes on in the background, and this party is out.
	resp, err := w.remove(ctx, clientv3.OpGet(w.q.prefix, clientv3.WithPrefix()))
	var now *page
	switch {
	case err == nil && resp.Succeeded:
		now = parsePage(w.q.prefix, w.key, resp.revision(), resp.get(1))
	case err != nil && (ctx.Err() != nil || permanent(err) || errors.Is(err, ErrLost)):
		return &cleanedUpError{err}
	}
	return w.awaitLeft(ctx, d.round, now)
}

// awaitLeft waits until nobody is in a round any more. Nobody ever joins one that is open, so that this stays so. The waiter's own
// key counts, too. now is what was read of the queue after the round was opened, nil if nothing was.
func (w *waiter) awaitLeft(ctx context.Context, round string, now *page) (err error) {
	l := w.q.l
	l.counts.waiting.Add(1)
	defer l.counts.waiting.Add(-1)
	inside := func(e entry) bool { return e.key == w.key || e.opened() && e.value == round }
	watch := w.q.newWatch()
	defer watch.close()
	pauses := newBackoff(maxBackoff)
	for {
		if now == nil {
			now, err = w.q.read(ctx)
		}
		switch {
		case err != nil && (ctx.Err() != nil || permanent(err)):
			return err
		case err != nil:
			sleep(ctx, pauses.NextBackOff())
			continue
		}
		i := slices.IndexFunc(now.entries, inside)
		if i < 0 {
			return nil
		}
		watch.set([]keywatch.Target{{Key: now.entries[i].key, Filter: keywatch.Deletions}}, nil) // any one: all have to go
		seen := now.rev
		if now, err = watch.await(ctx, &seen, watch.lookAgain); err != nil {
			return err
		}
	}
}

var errBusy = fmt.Errorf("%w: used by another goroutine at the same time", errs.Invalid)
