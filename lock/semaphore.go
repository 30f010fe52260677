package lock

import (
	"context"
	"errors"
	"strconv"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Semaphore is held by several owners at once, as long as their weights do not add up to more than
// n. It is a small value without state of its own, and safe for concurrent use. It is not
// reentrant: a caller that holds a permit and asks for more may wait for itself.
//
// The order is first come, first served, even if that leaves room unused: a small request waits
// behind a large one, so that the large one does not starve.
//
// n is not stored in etcd. If processes use different values, as during the rollout of a new one,
// each applies its own. The weight that is held never exceeds the largest n among the holders.
type Semaphore struct {
	l    *Locker
	kind waiterKind
	n    int
	err  error
}

// Semaphore returns the semaphore of the given name with n permits, at least 1. It sends nothing.
// The name follows the rules of [Locker.Mutex]. If the name or n is invalid, every call returns
// [ErrInvalid].
func (l *Locker) Semaphore(name string, n int) *Semaphore {
	dir, _ := l.dirs()
	s := &Semaphore{
		l: l, n: n, kind: waiterKind{name: name, prefix: dir + name + "/" + semDir},
		err: errors.Join(l.err, l.checkName(name)),
	}
	if n < 1 {
		s.err = errors.Join(s.err, errs.Invalidf("semaphore with %d permits: must be at least 1", n))
	}
	return s
}

// maxPermitPageSize is the largest number of entries ahead that are read when a permit is enqueued.
const maxPermitPageSize = 128

// permit returns the kind of waiters for a permit of the given weight. With an error, because the
// semaphore or the weight is invalid, the kind has just the name.
func (s *Semaphore) permit(weight int) (*waiterKind, error) {
	kind := s.kind
	if s.err != nil {
		return &kind, s.err
	}
	if weight < 1 || weight > s.n {
		return &kind, errs.Invalidf("weight %d: must be 1 to %d", weight, s.n)
	}
	kind.value = strconv.Itoa(weight) + " " + s.l.owner
	kind.admission = &admission{
		suffix: permitSuffix, rule: blockedByWeight(s.n - weight),
		// Each entry weighs at least 1, so these suffice.
		pageSize: int64(min(s.n-weight, maxPermitPageSize)) + 1,
	}
	return &kind, nil
}

// Acquire is [Semaphore.AcquireN] with weight 1.
func (s *Semaphore) Acquire(ctx context.Context) (*Permit, error) { return s.AcquireN(ctx, 1) }

// AcquireN waits until there is room for a permit of the given weight, 1 to n. It waits, fails and
// cleans up as [Mutex.Lock] does. Another weight is [ErrInvalid]. It costs one RPC. If it has to
// wait, or is behind more than 128 permits, it costs one more each time that a permit ahead of it
// is given back, and those of Mutex.Lock.
func (s *Semaphore) AcquireN(ctx context.Context, weight int) (*Permit, error) {
	kind, err := s.permit(weight)
	h, err := s.l.acquireHold(ctx, "wait", kind, err, acquireAlone)
	if err != nil {
		return nil, opError("acquire", s.kind.name, err)
	}
	return &Permit{holdMethods{h}}, nil
}

// TryAcquire acquires a permit of weight 1 if there is room for it beside all holders and waiters.
// Otherwise it changes nothing and returns a [*LockedError] that names the oldest of them behind
// which there is no room, or a [*BlockedError] if keys without a lease leave no room. It waits only
// for etcd's answer. It costs one RPC if the queue is empty or there is no room, and else two, and
// one more each time that another client enqueues between these.
func (s *Semaphore) TryAcquire(ctx context.Context) (*Permit, error) {
	kind, err := s.permit(1)
	h, err := s.l.acquireHold(ctx, "try", kind, err, tryAlone)
	if err != nil {
		return nil, opError("try acquire", s.kind.name, err)
	}
	return &Permit{holdMethods{h}}, nil
}

// Do acquires a permit of weight 1, calls f, and releases the permit, as [Mutex.Do] does with a
// lock, with the same contexts and errors.
func (s *Semaphore) Do(ctx context.Context, f SharedFunc) error {
	return runShared(ctx, s.l, s.kind.name, f, s.Acquire)
}

// TryDo is like Do, but uses [Semaphore.TryAcquire].
func (s *Semaphore) TryDo(ctx context.Context, f SharedFunc) error {
	return runShared(ctx, s.l, s.kind.name, f, s.TryAcquire)
}
