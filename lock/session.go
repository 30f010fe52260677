package lock

import (
	"context"

	"github.com/etcdkit/etcdkit/lease"
)

// sessionRef counts the waiters whose keys are on a session. The locker's mu guards it.
type sessionRef struct {
	waiters int
	unlink  func() bool // detaches it from the end of the session
}

// join counts a waiter on a session, the end of which ends all of its waiters. The caller holds
// l.mu.
func (l *Locker) join(s *lease.Session) {
	ref := l.sessions[s]
	if ref == nil {
		ref = &sessionRef{unlink: context.AfterFunc(s.Context(), func() { l.loseSession(s) })}
		l.sessions[s] = ref
	}
	ref.waiters++
}

// part removes a waiter from the count of a session. The caller holds l.mu.
func (l *Locker) part(s *lease.Session) {
	ref := l.sessions[s]
	if ref == nil {
		return
	}
	ref.waiters--
	if ref.waiters == 0 {
		ref.unlink()
		delete(l.sessions, s)
	}
}

// loseSession ends the holds and waits whose keys are on a session that has ended.
func (l *Locker) loseSession(s *lease.Session) {
	err := s.Err()
	l.mu.Lock()
	delete(l.sessions, s)
	var all []*waiter
	for _, w := range l.waiters {
		if w.s == s {
			all = append(all, w)
		}
	}
	l.mu.Unlock()
	for _, w := range all {
		w.lose(err)
	}
}
