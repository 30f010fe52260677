package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Session is a lease that is kept alive, and the knowledge of how long it can be relied on. See the package
// documentation for what that is worth. It is safe for concurrent use.
type Session struct {
	c      *core
	id     clientv3.LeaseID
	ctx    sessionContext
	cancel context.CancelCauseFunc
	guard  guardKey
	compat compat

	pooled // of a shared session

	mu      sync.Mutex
	ttl     time.Duration
	trust   deadline
	fuse    *time.Timer
	trouble error // of the last renewal, nil when it was answered
	cause   error // why the session ended, nil while it lives

	closing  sync.Once
	closeErr error
}

// OpenSession grants a lease, or adopts one, and keeps it alive until the session is closed or lost. ctx bounds the
// opening alone. One RPC. A lease that may have come of an opening that failed is revoked in the background; no adopted
// one is touched by a failure. An answer that came too late for the lease to be relied on is a failure: [ErrExpired].
func (m *Manager) OpenSession(ctx context.Context, o ...SessionOption) (*Session, error) {
	const op = "open session"
	if err := m.ready(); err != nil {
		return nil, opError(op, "", err)
	}
	set, err := newSessionSettings(m.ttl, o)
	if err != nil {
		return nil, opError(op, "", err)
	}
	ctx, stop := m.until(ctx)
	defer stop()
	if set.leaseSet {
		t, err := m.renewOnce(ctx, set.lease, op)
		if err != nil {
			return nil, err
		}
		return m.open(t, m.ns, nil)
	}
	t, err := m.grant(ctx, set.ttl)
	if err != nil {
		return nil, err
	}
	s, err := m.open(t, m.ns, nil)
	if err != nil {
		m.abandon(t.id)
	}
	return s, err
}

// open makes the session of a lease that was granted or renewed and has it renewed from now on.
func (c *core) open(t term, ns string, p *pool) (*Session, error) {
	s := &Session{c: c, id: t.id, ttl: t.ttl, trust: deadlineOf(t.asked, t.ttl), pooled: pooled{pool: p}}
	s.guard.key = ns + guardDir + named(t.id)
	inner, cancel := context.WithCancelCause(context.WithoutCancel(c.life))
	s.ctx, s.cancel = sessionContext{inner, s}, cancel
	s.mu.Lock()
	s.fuse = time.AfterFunc(time.Until(s.trust.mono), s.burn)
	s.mu.Unlock()
	if !c.renewer.add(s, t) {
		if s.Err() == nil { // then it is the manager that is over
			s.end(errs.ClosedError("lease manager"))
		}
		return nil, opError("open session", named(t.id), s.why())
	}
	return s, nil
}

// ID is the lease, to attach keys to.
func (s *Session) ID() clientv3.LeaseID { return s.id }

// TTL is what etcd granted, which may be more than what was asked for.
func (s *Session) TTL() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ttl
}

// Deadline is until when the session can be relied on as things are; each renewal moves it. It has a monotonic reading.
func (s *Session) Deadline() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trust.mono
}

// Context ends when the session is lost or closed; its cause says why and matches what Err returns. Its Err looks at
// the clock each time, as that of the session does. It has no deadline in the sense of a context, since the session's
// moves.
func (s *Session) Context() context.Context { return s.ctx }

// Err is nil while the session can be relied on. It looks at the clock: it is right also in a process that was just
// continued, before any timer has fired. A loss matches [ErrExpired] and whatever is known beyond that, a session that
// was closed [ErrClosed].
func (s *Session) Err() error {
	now := time.Now()
	s.mu.Lock()
	cause := s.cause
	over := cause == nil && s.trust.passed(now)
	s.mu.Unlock()
	if over {
		s.lose(nil, nil)
		return s.why()
	}
	return cause
}

// Verify asks etcd whether the lease lives. A session whose lease is gone is lost at once, instead of with the next
// renewal, and that is the error, as is the end of a session that is over already. Any other error leaves the question
// open. One RPC; one more if somebody has removed or overwritten the key behind [Session.Guard], which is restored, so that
// the guard holds when Verify returns nil.
func (s *Session) Verify(ctx context.Context) error {
	const op = "verify"
	if ctx == nil {
		return opError(op, named(s.id), errNoContext)
	}
	if err := s.Err(); err != nil {
		return opError(op, named(s.id), err)
	}
	ctx, stop := s.c.until(ctx)
	defer stop()
	err := s.ask(ctx, op)
	if isNotFound(err) {
		s.lose(ErrNotFound, nil)
		return opError(op, named(s.id), s.why())
	}
	return err
}

// ask asks etcd whether the lease lives, by the guard's key if there should be one.
func (s *Session) ask(ctx context.Context, op string) error {
	if s.guard.written() {
		return s.restoreGuard(ctx, op)
	}
	_, _, err := s.c.look(ctx, op, s.id, false)
	return err
}

// over reports whether the session has ended, or would be found to have by the clock. It draws no conclusions from that,
// as Err does, and so may be asked under a lock.
func (s *Session) over(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause != nil || s.trust.passed(now)
}

// why is why the session ended, nil while it has not.
func (s *Session) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// State says how the session is doing, by the clock as Err does.
func (s *Session) State() State {
	if s.Err() != nil {
		return Lost
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trouble != nil {
		return Suspended
	}
	return Alive
}

// Close ends the session and revokes its lease, which deletes its keys, within 5 s. It does so once and returns the same
// result every time. After an error the lease is left to expire. If the session was lost, Close returns nil, and tries once
// to revoke the lease in case it still exists. A session returned by Shared or Acquire cannot be closed: [ErrInvalid].
func (s *Session) Close() error {
	if s.pool != nil {
		return opError("close session", named(s.id), fmt.Errorf("%w: it is shared, and closed with its manager", errs.Invalid))
	}
	ctx, stop := s.c.parting()
	defer stop()
	return s.close(ctx)
}

func (s *Session) close(ctx context.Context) error {
	s.closing.Do(func() {
		if cause := s.Err(); cause != nil {
			if errors.Is(cause, ErrExpired) && !errors.Is(cause, ErrNotFound) {
				s.c.revokeLost(ctx, s.id)
			}
			return
		}
		if !s.end(errs.ClosedError("session")) {
			return
		}
		if err := s.c.revoke(ctx, s.id); err != nil && !errors.Is(err, ErrNotFound) {
			s.closeErr = err
		}
	})
	return s.closeErr
}

// Orphan ends the session and leaves its lease as it is: to whoever adopts it with [WithLease] before it expires. It
// does nothing to a shared session.
func (s *Session) Orphan() {
	if s.pool == nil {
		s.end(errs.ClosedError("session"))
	}
}

// renewed counts an answer to a renewal that was sent at the given time.
func (s *Session) renewed(sent time.Time, ttl time.Duration) {
	if s.Err() != nil {
		return // too late, whatever etcd says
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ttl, s.trouble = ttl, nil
	if d := deadlineOf(sent, ttl); s.trust.before(d) {
		s.trust = d
	}
}

// suspend notes that a renewal has failed.
func (s *Session) suspend(err error) {
	s.mu.Lock()
	s.trouble = err
	s.mu.Unlock()
}

// burn is the fuse. It is lit for the deadline of some time ago, and lit again for what the renewals made of it since.
func (s *Session) burn() {
	s.mu.Lock()
	left := time.Until(s.trust.mono)
	if s.cause == nil && left > 0 {
		s.fuse.Reset(left)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.lose(nil, nil)
}

// lose ends the session as lost, unless it has ended already. condition is what is known beyond the deadline; last, if
// there is one, the error that said so.
func (s *Session) lose(condition, last error) {
	s.mu.Lock()
	if last == nil {
		last = s.trouble
	}
	s.mu.Unlock()
	loss := &lossError{condition: condition, last: last}
	s.c.hooks.begin() // before the session is found to have ended: Close waits for the hook
	if !s.end(loss) {
		s.c.hooks.end()
		return
	}
	s.c.lost.Add(1)
	s.c.log.WarnContext(s.c.life, "lease lost", "lease", named(s.id), "cause", loss)
	if s.c.onLoss == nil {
		s.c.hooks.end()
		return
	}
	go s.c.callLossHook(loss)
}

// end ends the session, and reports whether it was this call that did.
func (s *Session) end(cause error) bool {
	s.mu.Lock()
	if s.cause != nil {
		s.mu.Unlock()
		return false
	}
	s.cause = cause
	s.fuse.Stop()
	s.mu.Unlock()
	s.cancel(cause)
	s.c.renewer.remove(s)
	return true
}

// callLossHook calls the user's hook, on a goroutine of its own: whoever finds a loss may hold locks, and has other
// sessions to look after.
func (c *core) callLossHook(loss error) {
	defer c.hooks.end()
	defer func() {
		if p := recover(); p != nil {
			c.log.ErrorContext(c.life, "the loss hook panicked", "panic", p)
		}
	}()
	c.onLoss(loss)
}
