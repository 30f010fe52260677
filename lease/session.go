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
	c           *core
	id          clientv3.LeaseID
	ctx         sessionContext
	cancel      context.CancelCauseFunc
	guard       guardKey
	concurrency concurrencySession

	poolState // of a shared session

	mu          sync.Mutex
	ttl         time.Duration
	deadline    deadline
	expiryTimer *time.Timer
	renewErr    error // of the last renewal, nil when it was answered
	cause       error // why the session ended, nil while it lives

	closeOnce sync.Once
	closeErr  error
}

// OpenSession grants a lease, or adopts one, and keeps it alive until the session is closed or lost. ctx bounds the
// opening alone. One RPC. A lease that may have come of an opening that failed is revoked in the background; no adopted
// one is touched by a failure. An answer that came too late for the lease to be relied on is a failure: [ErrExpired].
func (m *Manager) OpenSession(ctx context.Context, o ...SessionOption) (*Session, error) {
	const op = "open session"
	if err := m.ready(); err != nil {
		return nil, opError(op, "", err)
	}
	opts, err := newSessionOptions(m.ttl, o)
	if err != nil {
		return nil, opError(op, "", err)
	}
	ctx, stop := m.callContext(ctx)
	defer stop()
	if opts.hasLease {
		res, err := m.keepAliveOnce(ctx, opts.lease, op)
		if err != nil {
			return nil, err
		}
		return m.startSession(res, m.ns, nil)
	}
	res, err := m.grant(ctx, opts.ttl)
	if err != nil {
		return nil, err
	}
	s, err := m.startSession(res, m.ns, nil)
	if err != nil {
		m.revokeInBackground(res.id)
	}
	return s, err
}

// startSession makes the session of a lease that was granted or renewed and has it renewed from now on.
func (c *core) startSession(res leaseResult, ns string, p *pool) (*Session, error) {
	s := &Session{c: c, id: res.id, ttl: res.ttl, deadline: newDeadline(res.sentAt, res.ttl), poolState: poolState{pool: p}}
	s.guard.key = ns + guardDir + formatLeaseID(res.id)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(c.ctx))
	s.ctx, s.cancel = sessionContext{ctx, s}, cancel
	s.mu.Lock()
	s.expiryTimer = time.AfterFunc(time.Until(s.deadline.mono), s.onDeadline)
	s.mu.Unlock()
	if !c.renewer.add(s, res) {
		if s.Err() == nil { // then it is the manager that is over
			s.end(errs.ClosedError("lease manager"))
		}
		return nil, opError("open session", formatLeaseID(res.id), s.endErr())
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
	return s.deadline.mono
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
	expired := cause == nil && s.deadline.passed(now)
	s.mu.Unlock()
	if expired {
		s.lose(nil, nil)
		return s.endErr()
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
		return opError(op, formatLeaseID(s.id), errNoContext)
	}
	if err := s.Err(); err != nil {
		return opError(op, formatLeaseID(s.id), err)
	}
	ctx, stop := s.c.callContext(ctx)
	defer stop()
	err := s.checkLease(ctx, op)
	if isNotFound(err) {
		s.lose(ErrNotFound, nil)
		return opError(op, formatLeaseID(s.id), s.endErr())
	}
	return err
}

// checkLease asks etcd whether the lease lives, by the guard's key if there should be one.
func (s *Session) checkLease(ctx context.Context, op string) error {
	if s.guard.isWritten() {
		return s.restoreGuard(ctx, op)
	}
	_, _, err := s.c.queryLease(ctx, op, s.id, false)
	return err
}

// hasEnded reports whether the session has ended, or would be found to have by the clock. It draws no conclusions from that,
// as Err does, and so may be asked under a lock.
func (s *Session) hasEnded(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause != nil || s.deadline.passed(now)
}

// endErr is why the session ended, nil while it has not.
func (s *Session) endErr() error {
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
	if s.renewErr != nil {
		return Suspended
	}
	return Alive
}

// Close ends the session and revokes its lease, which deletes its keys, within 5 s. It does so once and returns the same
// result every time. After an error the lease is left to expire. If the session was lost, Close returns nil, and tries once
// to revoke the lease in case it still exists. A session returned by Shared or Acquire cannot be closed: [ErrInvalid].
func (s *Session) Close() error {
	if s.pool != nil {
		return opError("close session", formatLeaseID(s.id), fmt.Errorf("%w: it is shared, and closed with its manager", errs.Invalid))
	}
	ctx, stop := s.c.closeContext()
	defer stop()
	return s.close(ctx)
}

func (s *Session) close(ctx context.Context) error {
	s.closeOnce.Do(func() {
		if cause := s.Err(); cause != nil {
			if errors.Is(cause, ErrExpired) && !errors.Is(cause, ErrNotFound) {
				s.c.revokeOnce(ctx, s.id)
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

// extend counts an answer to a renewal that was sent at the given time.
func (s *Session) extend(sentAt time.Time, ttl time.Duration) {
	if s.Err() != nil {
		return // too late, whatever etcd says
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ttl, s.renewErr = ttl, nil
	if d := newDeadline(sentAt, ttl); s.deadline.before(d) {
		s.deadline = d
	}
}

// suspend notes that a renewal has failed.
func (s *Session) suspend(err error) {
	s.mu.Lock()
	s.renewErr = err
	s.mu.Unlock()
}

// onDeadline is the fuse. It is lit for the deadline of some time ago, and lit again for what the renewals made of it since.
func (s *Session) onDeadline() {
	s.mu.Lock()
	remaining := time.Until(s.deadline.mono)
	if s.cause == nil && remaining > 0 {
		s.expiryTimer.Reset(remaining)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.lose(nil, nil)
}

// lose ends the session as lost, unless it has ended already. condition is what is known beyond the deadline; last, if
// there is one, the error that said so.
func (s *Session) lose(condition, renewErr error) {
	s.mu.Lock()
	if renewErr == nil {
		renewErr = s.renewErr
	}
	s.mu.Unlock()
	loss := &lossError{condition: condition, renewErr: renewErr}
	s.c.hookCalls.add() // before the session is found to have ended: Close waits for the hook
	if !s.end(loss) {
		s.c.hookCalls.done()
		return
	}
	s.c.lost.Add(1)
	s.c.log.WarnContext(s.c.ctx, "lease lost", "lease", formatLeaseID(s.id), "cause", loss)
	if s.c.onLoss == nil {
		s.c.hookCalls.done()
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
	s.expiryTimer.Stop()
	s.mu.Unlock()
	s.cancel(cause)
	s.c.renewer.remove(s)
	return true
}
