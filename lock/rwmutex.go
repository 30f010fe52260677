package lock

import (
	"context"
)

// RWMutex is held by one writer or by any number of readers. The embedded [Mutex] is for writing:
// Lock, TryLock, Do and TryDo. It can be part of a [Multi]. An RWMutex is a small value without
// state of its own, and safe for concurrent use. It is independent of the [Mutex] of the same name.
//
// Writers do not starve: a reader waits for each writer that was in the queue before it, even for
// one that is waiting itself. Readers do not starve either: goroutines of one process that write in
// turn let others in after 16 turns.
//
// It is not reentrant, and a read lock cannot become a write lock: a caller that holds one and asks
// for the other, or reads again while a writer waits, waits for itself.
type RWMutex struct{ *Mutex }

// RWMutex returns the read-write mutex of the given name. It sends nothing. The name follows the
// rules of [Locker.Mutex]. If it is invalid, every call returns [ErrInvalid].
func (l *Locker) RWMutex(name string) *RWMutex {
	dir, _ := l.dirs()
	return &RWMutex{l.mutex(name, dir+name+"/"+rwDir)}
}

// readerPageSize is how many entries ahead a reader reads when it is enqueued. A writer may be
// ahead of many readers.
const readerPageSize = 64

// reader returns the kind of waiters that read.
func (m *RWMutex) reader() *waiterKind {
	kind := m.kind
	kind.admission, kind.local = readerAdmission, false
	return &kind
}

// RLock waits until the mutex is held for reading. Each call is a reader of its own, also within
// one process. It waits, fails and cleans up as [Mutex.Lock] does. It costs one RPC. If it has to
// wait, or is behind more than 64 readers, it costs one more, and those of Mutex.Lock.
func (m *RWMutex) RLock(ctx context.Context) (*Permit, error) {
	h, err := m.l.acquireHold(ctx, "wait", m.reader(), m.err, acquireAlone)
	if err != nil {
		return nil, opError("read lock", m.kind.name, err)
	}
	return &Permit{holdMethods{h}}, nil
}

// TryRLock locks for reading if no writer holds and none waits. Otherwise it returns a
// [*LockedError], or a [*BlockedError] if the key in the way has no lease. It waits only for etcd's
// answer. It costs one RPC if the queue is empty, or if a writer is in it, in which case it changes
// nothing. Beside other readers it costs two, and one more each time that another client enqueues
// between the two.
func (m *RWMutex) TryRLock(ctx context.Context) (*Permit, error) {
	h, err := m.l.acquireHold(ctx, "try", m.reader(), m.err, tryAlone)
	if err != nil {
		return nil, opError("try read lock", m.kind.name, err)
	}
	return &Permit{holdMethods{h}}, nil
}

// RDo locks for reading, calls f, and unlocks, as [Mutex.Do] does for writing, with the same
// contexts and errors.
func (m *RWMutex) RDo(ctx context.Context, f SharedFunc) error {
	return runShared(ctx, m.l, m.kind.name, f, m.RLock)
}
