package lock

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Semaphore is held by several at once, as long as their weights do not add up to more than n. It is a small value with no
// state of its own, and safe for concurrent use. It is not reentrant: who holds and asks for more can wait for himself.
//
// First come, first served, also where that leaves room unused: behind one that waits for much, those who want little
// wait too, and so it is not starved.
//
// n is not kept in etcd. Where processes say different things, as they do while a new n is rolled out, each admits itself
// by its own: what is held never weighs more than the largest n among those who hold.
type Semaphore struct {
	l    *Locker
	kind waiterKind
	n    int
	bad  error
}

// Semaphore returns the semaphore of a name, with n permits: 1 or more. It sends nothing. What is wrong with n, or with the
// name, for which the rules of [Locker.Mutex] hold, is returned by every call.
func (l *Locker) Semaphore(name string, n int) *Semaphore {
	dir, _ := l.dirs()
	s := &Semaphore{
		l: l, n: n, kind: waiterKind{name: name, prefix: dir + name + "/" + semDir},
		bad: errors.Join(l.bad, l.checkName(name)),
	}
	if n < 1 {
		s.bad = errors.Join(s.bad, fmt.Errorf("%w: a semaphore of %d: it must be 1 at least", errs.Invalid, n))
	}
	return s
}

// maxPermitPage is how many of those ahead are read, at the most, when a permit is enqueued.
const maxPermitPage = 128

// permit is the kind of waiters for a permit, and what is wrong with its weight.
func (s *Semaphore) permit(weight int) (waiterKind, error) {
	if s.bad != nil {
		return s.kind, s.bad
	}
	if weight < 1 || weight > s.n {
		return s.kind, fmt.Errorf("%w: weight %d: it must be 1 to %d", errs.Invalid, weight, s.n)
	}
	kind := s.kind
	kind.value = strconv.Itoa(weight) + " " + s.l.owner
	kind.admission = &admission{
		mark: markPermit, rule: behindWeight(s.n - weight),
		pageSize: int64(min(s.n-weight, maxPermitPage)) + 1, // each weighs something: that many are too many
	}
	return kind, nil
}

// Acquire is [Semaphore.AcquireN] with a weight of 1.
func (s *Semaphore) Acquire(ctx context.Context) (*Permit, error) { return s.AcquireN(ctx, 1) }

// AcquireN waits until there is room for a permit of the given weight, which must be 1 to n. It waits, fails and cleans up
// as [Mutex.Lock] does; a weight that is not 1 to n is [ErrInvalid]. One RPC; if it has to wait, or is behind more than 128
// permits, one more each time that a permit ahead of it is given back, and as for Mutex.Lock.
func (s *Semaphore) AcquireN(ctx context.Context, weight int) (*Permit, error) {
	kind, err := s.permit(weight)
	g, err := s.l.acquireOwn(ctx, kind, err)
	if err != nil {
		return nil, fail("acquire", s.kind.name, err)
	}
	return &Permit{g}, nil
}

// TryAcquire acquires a permit of weight 1 if there is room for it beside all who hold and all who wait, and returns a
// [*LockedError] if not, which names the one of them after whom there is no room any more. It does not wait, but for
// etcd's answer. One RPC where nobody else is there, or where it is refused, which changes nothing; otherwise two, and one
// more each time that somebody else has come in between the two.
func (s *Semaphore) TryAcquire(ctx context.Context) (*Permit, error) {
	kind, err := s.permit(1)
	g, err := s.l.tryOwn(ctx, kind, err)
	if err != nil {
		return nil, fail("try acquire", s.kind.name, err)
	}
	return &Permit{g}, nil
}

// Do acquires a permit of weight 1, calls f, and releases it, as [Mutex.Do] does with a lock, with the same contexts and
// errors.
func (s *Semaphore) Do(ctx context.Context, f SharedFunc) error {
	return doShared(ctx, s.l, s.kind.name, f, s.Acquire)
}

// TryDo is Do with [Semaphore.TryAcquire].
func (s *Semaphore) TryDo(ctx context.Context, f SharedFunc) error {
	return doShared(ctx, s.l, s.kind.name, f, s.TryAcquire)
}
