package lock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// Multi locks several mutexes together: all of them or none. It locks them in a fixed order, so
// that two that overlap cannot deadlock. It is safe for concurrent use.
type Multi struct {
	mutexes []*Mutex
	err     error
}

// Multi returns a lock over mutexes of this locker. Each may appear once. It sends nothing. If the
// arguments are invalid, every call returns [ErrInvalid].
func (l *Locker) Multi(ms ...*Mutex) *Multi {
	out := &Multi{mutexes: slices.Clone(ms), err: l.err}
	complain := func(format string, args ...any) {
		out.err = errors.Join(out.err, fmt.Errorf("%w: "+format, append([]any{errs.Invalid}, args...)...))
	}
	if len(ms) == 0 {
		complain("no mutexes")
	}
	if slices.Contains(ms, nil) {
		complain("a nil mutex")
		return out
	}
	slices.SortFunc(out.mutexes, func(a, b *Mutex) int { return strings.Compare(a.kind.prefix, b.kind.prefix) })
	for i, m := range out.mutexes {
		if m.l == l && l.err == nil {
			out.err = errors.Join(out.err, m.err)
		}
		if m.l != l {
			complain("mutex %s is of another locker", errs.Quote(m.kind.name))
		}
		if i > 0 && m.kind.prefix == out.mutexes[i-1].kind.prefix {
			complain("mutex %s appears twice", errs.Quote(m.kind.name))
		}
	}
	return out
}

// Lock waits until all mutexes are held. Only ctx bounds the wait. If one cannot be acquired, or is
// lost while Lock waits for another, Lock releases those that it holds in the background. The error
// is that of [Mutex.Lock] and names the mutex. The cost is the sum of the costs of all mutexes.
func (m *Multi) Lock(ctx context.Context) (*MultiHeld, error) {
	if m.err != nil {
		return nil, opError("lock all", "", m.err)
	}
	all := &multiHold{}
	if err := all.lockAll(ctx, m.mutexes); err != nil {
		for _, held := range all.holds {
			held.releaseInBackground()
		}
		return nil, err
	}
	all.bindContext(m.mutexes[0].l)
	return &MultiHeld{Permit{all}}, nil
}

// MultiHeld is the hold of several mutexes. Its context ends when any of them is lost. Its guard
// holds while all of them are held, and costs a compare for each. Each mutex has a token of its
// own.
type MultiHeld struct{ Permit }

// Token returns the fencing token of m, or 0 if m is not one of the mutexes.
func (h *MultiHeld) Token(m *Mutex) int64 {
	all, ok := h.hold.(*multiHold)
	if !ok || m == nil {
		return 0
	}
	for _, g := range all.holds {
		if g.w.q.prefix == m.kind.prefix {
			return g.token
		}
	}
	return 0
}

// multiHold is the state of a [MultiHeld].
type multiHold struct {
	holds  []*hold
	base   context.Context //nolint:containedctx // base of what Context returns
	cancel context.CancelCauseFunc
	detach []func() bool
}

// lockAll locks the mutexes one after the other. The loss of one ends the wait for the next.
func (a *multiHold) lockAll(ctx context.Context, ms []*Mutex) error {
	wait, stop := context.WithCancel(ctx)
	defer stop()
	for _, m := range ms {
		g, err := m.lock(wait)
		if err != nil {
			if i := slices.IndexFunc(a.holds, func(h *hold) bool { return h.err() != nil }); i >= 0 {
				m, err = ms[i], a.holds[i].err()
			}
			return opError("lock all", m.kind.name, err)
		}
		a.holds = append(a.holds, g)
		context.AfterFunc(g.context(), stop)
	}
	return nil
}

// bindContext creates the context, which ends with the first of the holds that ends.
func (a *multiHold) bindContext(l *Locker) {
	a.base, a.cancel = context.WithCancelCause(context.WithoutCancel(l.ctx))
	for _, g := range a.holds {
		a.detach = append(a.detach, context.AfterFunc(g.context(), func() { a.cancel(context.Cause(g.context())) }))
	}
}

func (a *multiHold) context() context.Context { return multiHoldContext{a.base, a} }

func (a *multiHold) err() error {
	for _, g := range a.holds {
		if err := g.err(); err != nil {
			return err
		}
	}
	return nil
}

func (a *multiHold) guard() kv.Guard {
	var all []clientv3.Cmp
	for _, g := range a.holds {
		all = append(all, g.compares()...)
	}
	return kv.NewGuard(ErrLost, all...)
}

func (a *multiHold) name() string {
	names := make([]string, 0, len(a.holds))
	for _, g := range a.holds {
		names = append(names, g.name())
	}
	return strings.Join(names, ", ")
}

func (a *multiHold) verify(ctx context.Context) error {
	for _, g := range a.holds {
		if err := g.verify(ctx); err != nil {
			return err
		}
	}
	return nil
}

// release releases all holds at once, even if some fail. It returns the error of a lost hold if
// there is one, else that of one that failed.
func (a *multiHold) release(ctx context.Context) error {
	for _, stop := range a.detach {
		stop()
	}
	a.cancel(cmp.Or(a.err(), ErrReleased)) // before others can be granted the first of them
	all := make([]error, len(a.holds))
	var wg sync.WaitGroup
	for i, g := range a.holds {
		wg.Go(func() { all[i] = g.release(ctx) })
	}
	wg.Wait()
	return lostOrAny(all)
}

// lostOrAny returns a loss if there is one among the errors, else any of them.
func lostOrAny(all []error) (worst error) {
	for _, err := range all {
		if errors.Is(err, ErrLost) {
			return err
		}
		worst = cmp.Or(worst, err)
	}
	return worst
}

// multiHoldContext is the context of several holds. Its Err checks the clock as well.
type multiHoldContext struct {
	context.Context //nolint:containedctx // it is one

	all *multiHold
}

// Err returns nil while all holds are valid.
func (c multiHoldContext) Err() error {
	if cause := c.all.err(); cause != nil {
		c.all.cancel(cause)
	}
	return c.Context.Err()
}
