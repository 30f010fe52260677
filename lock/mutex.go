package lock

import (
	"context"
	"errors"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Mutex is a distributed mutual exclusion lock. It has one holder at a time among the goroutines of
// all processes that use the name. It is wire-compatible with the Mutex of client/v3/concurrency. A
// Mutex is a small value without state of its own: two of the same name are the same lock. It is
// not reentrant. It is safe for concurrent use.
type Mutex struct {
	l    *Locker
	kind waiterKind
	err  error
}

// Mutex returns the mutex of the given name. It sends nothing. A name is 1 to 512 bytes of UTF-8
// without control characters and without a leading, trailing or doubled "/". With [WithDir]("") a
// name may begin with one. If the name is invalid, every call returns [ErrInvalid].
//
// Flat names are best. A name below another ("a/b" below "a") makes [Mutex.TryLock] of the shorter
// one cost a second RPC. So does a semaphore, a read-write mutex or a barrier of the same name,
// whose queues lie below it.
func (l *Locker) Mutex(name string) *Mutex {
	locks, _ := l.dirs()
	return l.mutex(name, locks+name+"/")
}

func (l *Locker) mutex(name, prefix string) *Mutex {
	return &Mutex{l: l, kind: waiterKind{name: name, prefix: prefix, value: l.owner, admission: exclusiveAdmission, local: true}, err: errors.Join(l.err, l.checkName(name))}
}

// Lock waits until the mutex is held. Only ctx bounds the wait. The request that enqueues has 10 s
// if ctx has no deadline. Lock returns [ErrLost] if the session ends, or the key is deleted, while
// it waits, and a [*BlockedError] if a key without a lease blocks the queue. If the deadline of ctx
// passes while Lock waits, the error matches context.DeadlineExceeded. If etcd answers one more
// request at once, it also holds a [*LockedError] that names the holder. After an error nothing is
// left behind.
//
// Lock costs one RPC. If it has to wait, it costs one more when the lock is free, and a few more in
// the cases that the package documentation lists. A turn that is taken over from another goroutine
// of this process costs one RPC.
func (m *Mutex) Lock(ctx context.Context) (*Held, error) {
	h, err := m.lock(ctx)
	if err != nil {
		return nil, opError("lock", m.kind.name, err)
	}
	return &Held{holdMethods{h}}, nil
}

func (m *Mutex) lock(ctx context.Context) (*hold, error) {
	return m.l.acquireHold(ctx, "wait", &m.kind, m.err, acquireLocally)
}

// TryLock locks the mutex if no other owner holds it or waits for it. Otherwise it returns a
// [*LockedError], or a [*BlockedError] if the first key of the queue has no lease. It waits only
// for etcd's answer. It costs one RPC, which changes nothing if the mutex is taken, and none if
// this process holds it or waits for it. It costs one more if other names lie below the name.
func (m *Mutex) TryLock(ctx context.Context) (*Held, error) {
	h, err := m.l.acquireHold(ctx, "try", &m.kind, m.err, tryLocally)
	if err != nil {
		return nil, opError("try lock", m.kind.name, err)
	}
	return &Held{holdMethods{h}}, nil
}

// Do locks the mutex, calls f, and releases the mutex, also if f panics. The context of f is
// derived from ctx and also ends, with cause [ErrLost], when the lock is lost. Do returns the error
// of f. If the lock was lost meanwhile, the error also matches [ErrLost], even if f returned nil.
// If etcd does not answer the release, the error also matches [ErrUnknownOutcome], which says
// nothing about the effects of f. If the lock cannot be acquired, f is not called, and the error is
// that of [Mutex.Lock]. The cost is that of Lock and Release.
func (m *Mutex) Do(ctx context.Context, f Func) error {
	return m.do(ctx, f, m.Lock)
}

// TryDo is like Do, but uses [Mutex.TryLock]. If another owner holds the lock or waits for it, f is
// not called, and the error is a [*LockedError] or a [*BlockedError].
func (m *Mutex) TryDo(ctx context.Context, f Func) error {
	return m.do(ctx, f, m.TryLock)
}

func (m *Mutex) do(ctx context.Context, f Func, lock func(context.Context) (*Held, error)) error {
	if f == nil {
		return opError("do", m.kind.name, errs.Invalidf("no function"))
	}
	h, err := lock(ctx)
	if err != nil {
		return err
	}
	return h.run(ctx, m.l, func(ctx context.Context) error { return f(ctx, h) })
}
