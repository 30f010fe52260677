package lock

import (
	"cmp"
	"context"
	"errors"
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
func (l *Locker) Multi(mutexes ...*Mutex) *Multi {
	m := &Multi{mutexes: slices.Clone(mutexes), err: l.err}
	addErr := func(err error) { m.err = errors.Join(m.err, err) }
	if len(mutexes) == 0 {
		addErr(errs.Invalidf("no mutexes"))
	}
	if slices.Contains(mutexes, nil) {
		addErr(errs.Invalidf("a nil mutex"))
		return m
	}
	slices.SortFunc(m.mutexes, func(a, b *Mutex) int { return strings.Compare(a.kind.prefix, b.kind.prefix) })
	for i, mu := range m.mutexes {
		if mu.l == l && l.err == nil {
			addErr(mu.err)
		}
		if mu.l != l {
			addErr(errs.Invalidf("mutex %s is of another locker", errs.Quote(mu.kind.name)))
		}
		if i > 0 && mu.kind.prefix == m.mutexes[i-1].kind.prefix {
			addErr(errs.Invalidf("mutex %s appears twice", errs.Quote(mu.kind.name)))
		}
	}
	return m
}

// Lock waits until all mutexes are held. Only ctx bounds the wait. If one cannot be acquired, or is
// lost while Lock waits for another, Lock releases those that it holds in the background. The error
// is that of [Mutex.Lock] and names the mutex. The cost is the sum of the costs of all mutexes.
func (m *Multi) Lock(ctx context.Context) (*MultiHeld, error) {
	if m.err != nil {
		return nil, opError("lock all", "", m.err)
	}
	multi := &multiHold{}
	if err := multi.lockAll(ctx, m.mutexes); err != nil {
		for _, h := range multi.holds {
			h.releaseInBackground()
		}
		return nil, err
	}
	multi.bindContext(m.mutexes[0].l)
	return &MultiHeld{holdMethods{multi}}, nil
}

// MultiHeld is the hold of several mutexes. Its context ends when any of them is lost. Its guard
// holds while all of them are held, and costs a compare for each. Each mutex has a token of its
// own.
type MultiHeld struct{ holdMethods }

// Token returns the fencing token of m, or 0 if m is not one of the mutexes.
func (h *MultiHeld) Token(m *Mutex) int64 {
	multi, ok := h.hold.(*multiHold)
	if !ok || m == nil {
		return 0
	}
	for _, h := range multi.holds {
		if h.w.q.prefix == m.kind.prefix {
			return h.token
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
func (m *multiHold) lockAll(ctx context.Context, mutexes []*Mutex) error {
	wait, stop := context.WithCancel(ctx)
	defer stop()
	for _, mutex := range mutexes {
		h, err := mutex.lock(wait)
		if err != nil {
			if i := slices.IndexFunc(m.holds, func(h *hold) bool { return h.err() != nil }); i >= 0 {
				mutex, err = mutexes[i], m.holds[i].err()
			}
			return opError("lock all", mutex.kind.name, err)
		}
		m.holds = append(m.holds, h)
		context.AfterFunc(h.context(), stop)
	}
	return nil
}

// bindContext creates the context, which ends with the first of the holds that ends.
func (m *multiHold) bindContext(l *Locker) {
	m.base, m.cancel = context.WithCancelCause(context.WithoutCancel(l.ctx))
	for _, h := range m.holds {
		m.detach = append(m.detach, context.AfterFunc(h.context(), func() { m.cancel(context.Cause(h.context())) }))
	}
}

func (m *multiHold) context() context.Context { return multiHoldContext{m.base, m} }

func (m *multiHold) err() error {
	for _, h := range m.holds {
		if err := h.err(); err != nil {
			return err
		}
	}
	return nil
}

func (m *multiHold) guard() kv.Guard {
	var compares []clientv3.Cmp
	for _, h := range m.holds {
		compares = append(compares, h.compares()...)
	}
	return kv.NewGuard(ErrLost, compares...)
}

func (m *multiHold) name() string {
	names := make([]string, 0, len(m.holds))
	for _, h := range m.holds {
		names = append(names, h.name())
	}
	return strings.Join(names, ", ")
}

func (m *multiHold) verify(ctx context.Context) error {
	for _, h := range m.holds {
		if err := h.verify(ctx); err != nil {
			return err
		}
	}
	return nil
}

// release releases all holds at once, even if some fail. It returns the error of a lost hold if
// there is one, else that of one that failed.
func (m *multiHold) release(ctx context.Context) error {
	for _, stop := range m.detach {
		stop()
	}
	// The context ends before others can be granted the first of the locks.
	m.cancel(cmp.Or(m.err(), ErrReleased))
	results := make([]error, len(m.holds))
	var wg sync.WaitGroup
	for i, h := range m.holds {
		wg.Go(func() { results[i] = h.release(ctx) })
	}
	wg.Wait()
	return firstLossOrError(results)
}

// firstLossOrError returns the first loss among the results, or else the first error.
func firstLossOrError(results []error) (first error) {
	for _, err := range results {
		if errors.Is(err, ErrLost) {
			return err
		}
		first = cmp.Or(first, err)
	}
	return first
}

// multiHoldContext is the context of several holds. Its Err checks the clock as well.
type multiHoldContext struct {
	context.Context //nolint:containedctx // it is one

	multi *multiHold
}

// Err returns nil while all holds are valid.
func (c multiHoldContext) Err() error {
	if cause := c.multi.err(); cause != nil {
		c.multi.cancel(cause)
	}
	return c.Context.Err()
}
