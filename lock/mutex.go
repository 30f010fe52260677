package lock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Mutex excludes: one holder at a time, of all goroutines in all processes that use the name. It is wire-compatible with
// client/v3/concurrency's Mutex. A Mutex is a small value with no state of its own: two of one name are the same
// lock. It is not reentrant. It is safe for concurrent use.
type Mutex struct {
	l    *Locker
	kind waiterKind
	bad  error
}

// Mutex returns the mutex of a name. It sends nothing. A name is 1 to 512 bytes of UTF-8 without control
// characters and without a leading, trailing or doubled "/" (with [WithDir]("") a name may begin with one); what is wrong with it is returned by every call. Names are
// best flat: one that lies below another ("a/b" below "a") makes [Mutex.TryLock] of the shorter one cost a second RPC. So
// does a semaphore, a read-write mutex or a barrier of the same name, whose queues lie below it.
func (l *Locker) Mutex(name string) *Mutex {
	locks, _ := l.dirs()
	return l.mutex(name, locks+name+"/")
}

func (l *Locker) mutex(name, prefix string) *Mutex {
	return &Mutex{l: l, kind: waiterKind{name: name, prefix: prefix, value: l.owner, admission: exclusive}, bad: errors.Join(l.bad, l.checkName(name))}
}

// Lock waits until the mutex is held. The wait is bounded by ctx alone; the request that takes the place in the queue has
// 10 s where ctx has no deadline. It fails with [ErrLost] when the session ends, or the key is deleted, while it
// waits, and with a [*BlockedError] where waiting is of no use. If the deadline of ctx passes while it waits, the error
// matches context.DeadlineExceeded and, if etcd answers one more request at once, holds a [*LockedError] that names the
// holder. After an error nothing stays behind.
//
// One RPC; if it has to wait, one more when the lock is free, and a few more in the cases that the package documentation lists. A turn
// that is taken over from another goroutine of this process is one RPC.
func (m *Mutex) Lock(ctx context.Context) (*Held, error) {
	g, err := m.lock(ctx)
	if err != nil {
		return nil, fail("lock", m.kind.name, err)
	}
	return &Held{Permit{g}}, nil
}

func (m *Mutex) lock(ctx context.Context) (*hold, error) {
	if m.bad != nil {
		return nil, m.bad
	}
	ctx, done, err := m.l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	start := time.Now()
	q := m.l.enter(&m.kind)
	w, err := q.local.join(ctx)
	if err != nil {
		err = q.nameHolder(ctx, m.kind.name, err)
	} else {
		w, err = m.acquire(ctx, q, w)
	}
	if err != nil {
		q.exit()
		return nil, err
	}
	m.l.hook.notify(m.kind.name, start)
	return w.begin(false, w.token), nil
}

// acquire gets a grant for the head of the local queue, with the waiter that was handed on or a new one. On an error the head is
// left, and the waiter is the next one's.
func (m *Mutex) acquire(ctx context.Context, q *queue, w *waiter) (*waiter, error) {
	if w != nil && w.lostErr() != nil {
		w.discard()
		w = nil
	}
	var err error
	if w == nil {
		if w, err = q.enqueue(ctx, &m.kind); err != nil {
			q.local.releaseHead(nil)
			return nil, err
		}
		q.local.setFront(w.ahead.oldest())
	}
	if err = w.await(ctx); err == nil && w.used {
		err = w.turn(ctx, &q.local)
	}
	if err == nil {
		return w, nil
	}
	if _, blocked := errors.AsType[*BlockedError](err); blocked || w.lostErr() != nil {
		w.discard()
		w = nil
	}
	q.local.releaseHead(w)
	return nil, q.nameHolder(ctx, m.kind.name, &cleanedUpError{err})
}

// Do locks, calls f, and releases, also when f panics. f's context is ctx, and also ends, with cause [ErrLost], when the lock
// is lost. The error is that of f; where the lock was lost meanwhile, it matches [ErrLost] too, also if f returned nil; and
// where nobody has answered to the release, [ErrUnknownOutcome], which is not of what f did. Where the lock is not had, f is
// not called, and the error is that of [Mutex.Lock]. The cost is that of Lock and Release.
func (m *Mutex) Do(ctx context.Context, f Func) error {
	return m.do(ctx, f, m.Lock)
}

// TryDo is Do with [Mutex.TryLock]: where somebody else has the lock, or waits for it, f is not called, and the error is a
// [*LockedError].
func (m *Mutex) TryDo(ctx context.Context, f Func) error {
	return m.do(ctx, f, m.TryLock)
}

func (m *Mutex) do(ctx context.Context, f Func, lock func(context.Context) (*Held, error)) error {
	if f == nil {
		return fail("do", m.kind.name, fmt.Errorf("%w: no function", errs.Invalid))
	}
	h, err := lock(ctx)
	if err != nil {
		return err
	}
	return h.work(ctx, m.l, func(ctx context.Context) error { return f(ctx, h) })
}
