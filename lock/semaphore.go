package lock

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

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
	spec spec
	n    int
	bad  error
}

// Semaphore returns the semaphore of a name, with n permits: 1 or more. It sends nothing. What is wrong with n, or with the
// name, for which the rules of [Locker.Mutex] hold, is returned by every call.
func (l *Locker) Semaphore(name string, n int) *Semaphore {
	dir, _ := l.dirs()
	s := &Semaphore{
		l: l, n: n, spec: spec{name: name, prefix: dir + name + "/" + semDir, mark: markPermit},
		bad: errors.Join(l.bad, l.checkName(name)),
	}
	if n < 1 {
		s.bad = errors.Join(s.bad, fmt.Errorf("%w: a semaphore of %d: it must be 1 at least", errs.Invalid, n))
	}
	return s
}

// fewHolders is how many of those ahead one looks at, at the most, when it takes its place: behind more it watches the
// queue.
const fewHolders = 128

// weighing is the place of a permit, and what is wrong with its weight.
func (s *Semaphore) weighing(weight int) (spec, error) {
	if s.bad != nil {
		return s.spec, s.bad
	}
	if weight < 1 || weight > s.n {
		return s.spec, fmt.Errorf("%w: weight %d: it must be 1 to %d", errs.Invalid, weight, s.n)
	}
	sp := s.spec
	sp.value = strconv.Itoa(weight) + " " + s.l.owner
	sp.rule = room(s.n - weight)
	sp.few = int64(min(s.n-weight, fewHolders)) + 1 // each weighs something: that many are too many
	return sp, nil
}

// room admits those whom others are ahead of that weigh no more than most.
func room(most int) rule {
	return func(ahead []entry, _ entry) (bool, *entry) {
		left, ever := most, most // ever is what is left when all have gone that will
		var stray *entry
		for i := range ahead {
			e := &ahead[i]
			w := weightOf(e)
			if e.lease == 0 {
				ever -= w
				stray = e
			}
			if w > left {
				if ever >= 0 {
					stray = nil
				}
				return false, stray
			}
			left -= w
		}
		return true, nil
	}
}

// weightOf is what an entry says that it weighs; 1 where it says nothing.
func weightOf(e *entry) int {
	said, _, _ := strings.Cut(e.value, " ")
	if w, err := strconv.Atoi(said); err == nil && w > 0 {
		return w
	}
	return 1
}

// Acquire is [Semaphore.AcquireN] with a weight of 1.
func (s *Semaphore) Acquire(ctx context.Context) (*Permit, error) { return s.AcquireN(ctx, 1) }

// AcquireN waits until there is room for a permit of the given weight, which must be 1 to n. It waits, fails and cleans up
// as [Mutex.Lock] does; a weight that is not 1 to n is [ErrInvalid]. One RPC; where it has to wait, or is behind more than 128
// permits, one more and a watch the first time on a name, and none after.
func (s *Semaphore) AcquireN(ctx context.Context, weight int) (*Permit, error) {
	sp, err := s.weighing(weight)
	g, err := s.l.acquireOwn(ctx, sp, err)
	if err != nil {
		return nil, fail("acquire", s.spec.name, err)
	}
	return &Permit{g}, nil
}

// TryAcquire acquires a permit of weight 1 if there is room for it beside all who hold and all who wait, and returns a
// [*LockedError] if not, which names the one of them after whom there is no room any more. It does not wait, but for
// etcd's answer. One RPC where nobody else is there, or where it is refused, which changes nothing; otherwise two, and one
// more each time that somebody else has come in between the two.
func (s *Semaphore) TryAcquire(ctx context.Context) (*Permit, error) {
	sp, err := s.weighing(1)
	g, err := s.l.tryOwn(ctx, sp, err)
	if err != nil {
		return nil, fail("try acquire", s.spec.name, err)
	}
	return &Permit{g}, nil
}

// Do acquires a permit of weight 1, calls f, and releases it, as [Mutex.Do] does with a lock, with the same contexts and
// errors.
func (s *Semaphore) Do(ctx context.Context, f SharedFunc) error {
	return doShared(ctx, s.l, s.spec.name, f, s.Acquire)
}

// TryDo is Do with [Semaphore.TryAcquire].
func (s *Semaphore) TryDo(ctx context.Context, f SharedFunc) error {
	return doShared(ctx, s.l, s.spec.name, f, s.TryAcquire)
}
