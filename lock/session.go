package lock

import (
	"context"

	"github.com/etcdkit/etcdkit/lease"
)

// sessionRef counts the waiters whose keys are on a session. The locker's mu guards it.
type sessionRef struct {
	users  int
	detach func() bool // detaches it from the end of the session
}

// join counts a waiter on a session, the end of which ends all of its waiters. The caller holds
// l.mu.
func (l *Locker) retainSession(s *lease.Session) {
	ref := l.sessions[s]
	if ref == nil {
		ref = &sessionRef{detach: context.AfterFunc(s.Context(), func() { l.onSessionEnd(s) })}
		l.sessions[s] = ref
	}
	ref.users++
}

// part removes a waiter from the count of a session. The caller holds l.mu.
func (l *Locker) releaseSession(s *lease.Session) {
	ref := l.sessions[s]
	if ref == nil {
		return
	}
	ref.users--
	if ref.users == 0 {
		ref.detach()
		delete(l.sessions, s)
	}
}

// loseSession ends the holds and waits whose keys are on a session that has ended.
func (l *Locker) onSessionEnd(s *lease.Session) {
	err := s.Err()
	l.mu.Lock()
	delete(l.sessions, s)
	var all []*waiter
	for _, w := range l.waiters {
		if w.session == s {
			all = append(all, w)
		}
	}
	l.mu.Unlock()
	for _, w := range all {
		w.markLost(err)
	}
}
