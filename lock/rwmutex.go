package lock

import (
	"context"
)

// RWMutex is held by one writer, or by any number of readers. The writer's side is the embedded [Mutex]: Lock, TryLock, Do
// and TryDo are for writing, and it can be one of a [Multi]. It is a small value with no state of its own, and safe for
// concurrent use. It has nothing to do with the [Mutex] of the same name.
//
// Writers are not starved: a reader waits behind each writer that was in the queue before it, also behind one that waits
// itself. Nor are readers: goroutines of one process that write in turn let others in after 16.
//
// It is not reentrant, and a read lock cannot be made a write lock: who holds one and asks for the other, or reads again
// while a writer waits, waits for himself.
type RWMutex struct{ *Mutex }

// RWMutex returns the read-write mutex of a name. It sends nothing. What is wrong with the name, for which the rules of
// [Locker.Mutex] hold, is returned by every call.
func (l *Locker) RWMutex(name string) *RWMutex {
	dir, _ := l.dirs()
	return &RWMutex{l.mutex(name, dir+name+"/"+rwDir)}
}

// fewReaders is how many of those ahead a reader reads when it is enqueued: a writer may be behind many readers.
const fewReaders = 64

// reader is the kind of waiters that read.
func (m *RWMutex) reader() waiterKind {
	kind := m.kind
	kind.admission = reader
	return kind
}

// RLock waits until the mutex is held for reading. Each call is a reader of its own, also within one process. It waits,
// fails and cleans up as [Mutex.Lock] does. One RPC; if it has to wait, or is behind more than 64 readers, one
// more, and as for Mutex.Lock.
func (m *RWMutex) RLock(ctx context.Context) (*Permit, error) {
	g, err := m.l.acquireOwn(ctx, m.reader(), m.bad)
	if err != nil {
		return nil, fail("read lock", m.kind.name, err)
	}
	return &Permit{g}, nil
}

// TryRLock locks for reading if no writer holds and none waits, and returns a [*LockedError] if one does. It does not
// wait, but for etcd's answer. One RPC where nobody is there, or a writer, which then changes nothing; two beside other
// readers, and one more each time that somebody else has come in between the two.
func (m *RWMutex) TryRLock(ctx context.Context) (*Permit, error) {
	g, err := m.l.tryOwn(ctx, m.reader(), m.bad)
	if err != nil {
		return nil, fail("try read lock", m.kind.name, err)
	}
	return &Permit{g}, nil
}

// RDo locks for reading, calls f, and releases, as [Mutex.Do] does for writing, with the same contexts and errors.
func (m *RWMutex) RDo(ctx context.Context, f SharedFunc) error {
	return doShared(ctx, m.l, m.kind.name, f, m.RLock)
}
