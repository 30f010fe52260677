package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Session is a lease that is kept alive until it is closed or lost. The package documentation
// describes what it guarantees. It is safe for concurrent use.
type Session struct {
	c           *core
	id          clientv3.LeaseID
	ctx         sessionContext
	cancel      context.CancelCauseFunc
	guard       guardKey
	concurrency concurrencySession

	poolState // of a pooled session

	mu          sync.Mutex
	ttl         time.Duration
	deadline    deadline
	expiryTimer *time.Timer
	renewErr    error // of the last renewal; nil if it succeeded
	cause       error // why the session ended; nil before

	closing  atomic.Bool
	closed   chan struct{} // closed when the first close has returned
	closeErr error
}

// OpenSession grants or adopts a lease and keeps it alive until the session is closed or lost. ctx
// bounds the opening only. It costs one RPC, and one renewal if the response to the grant took half
// of the TTL. If opening fails, a lease that may have been granted is revoked in the background; an
// adopted lease is left as it is. If the response arrives too late for the lease to be relied on,
// the error matches [ErrExpired].
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

// startSession creates the session of a lease that was granted or renewed, and starts its renewal.
func (c *core) startSession(res leaseResult, ns string, p *pool) (*Session, error) {
	s := &Session{c: c, id: res.id, ttl: res.ttl, deadline: newDeadline(res.sentAt, res.ttl), poolState: poolState{pool: p}, closed: make(chan struct{})}
	s.guard.key = ns + guardDir + wire.FormatLeaseID(res.id)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(c.ctx))
	s.ctx, s.cancel = sessionContext{ctx, s}, cancel
	s.mu.Lock()
	s.expiryTimer = time.AfterFunc(time.Until(s.deadline.mono), s.onDeadline)
	s.mu.Unlock()
	if !c.renewer.add(s, res) {
		if s.Err() == nil { // the manager is closed
			s.end(errs.ClosedError("lease manager"))
		}
		return nil, opError("open session", wire.FormatLeaseID(res.id), s.endErr())
	}
	return s, nil
}

// ID returns the ID of the lease, for attaching keys.
func (s *Session) ID() clientv3.LeaseID { return s.id }

// TTL returns the TTL that etcd granted, which may be longer than requested.
func (s *Session) TTL() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ttl
}

// Deadline returns the time at which the session ends unless its lease is renewed. Each renewal
// moves it. It has a monotonic reading.
func (s *Session) Deadline() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deadline.mono
}

// Context returns a context that ends when the session is lost or closed. Its cause is the error
// that Err returns. Like [Session.Err], the context's Err checks the clock on each call. The
// context has no deadline of its own because the session's deadline moves.
func (s *Session) Context() context.Context { return s.ctx }

// Err returns nil while the session is valid. It checks the clock on each call, so it is correct
// even in a process that was just resumed, before any timer has fired. The error of a lost session
// matches [ErrExpired] and the known cause; that of a closed session matches [ErrClosed].
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

// Verify asks etcd whether the lease exists. If it does not, the session is lost at once instead of
// at the next renewal, and Verify returns that error. If the session has already ended, Verify
// returns why. After any other error it is unknown whether the lease exists. It costs one RPC, and
// one more if the key behind [Session.Guard] was deleted or overwritten: Verify restores that key,
// so the guard holds when Verify returns nil.
func (s *Session) Verify(ctx context.Context) error {
	const op = "verify"
	if err := s.Err(); err != nil {
		return opError(op, wire.FormatLeaseID(s.id), err)
	}
	ctx, stop := s.c.callContext(ctx)
	defer stop()
	err := s.checkLease(ctx, op)
	if isNotFound(err) {
		s.lose(ErrNotFound, nil)
		return opError(op, wire.FormatLeaseID(s.id), s.endErr())
	}
	return err
}

// checkLease asks etcd whether the lease exists. If the guard's key was written, it checks that
// key.
func (s *Session) checkLease(ctx context.Context, op string) error {
	if s.guard.isWritten() {
		return s.restoreGuard(ctx, op)
	}
	_, _, err := s.c.queryLease(ctx, op, s.id, false)
	return err
}

// hasEnded reports whether the session has ended or its deadline has passed. Unlike Err, it does
// not end the session, so it may be called with a lock held.
func (s *Session) hasEnded(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause != nil || s.deadline.passed(now)
}

// endErr returns why the session ended, or nil if it has not ended.
func (s *Session) endErr() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// State returns the state of the session. Like Err, it checks the clock.
func (s *Session) State() State {
	if s.Err() != nil {
		return Lost
	}
	if s.suspended() {
		return Suspended
	}
	return Alive
}

// suspended reports whether the last renewal failed. It ends no session, so that metrics can call
// it.
func (s *Session) suspended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renewErr != nil
}

// Close ends the session and revokes its lease, which deletes its keys, within 5 s. Further calls
// wait for the first one, for at most 5 s, and return its result. After an error the lease is left
// to expire. If the session was lost, Close tries once to revoke the lease in case it still exists,
// and returns nil. A session returned by Shared or Acquire cannot be closed: Close returns
// [ErrInvalid].
func (s *Session) Close() error {
	if s.pool != nil {
		return opError("close session", wire.FormatLeaseID(s.id), fmt.Errorf("%w: it is shared, and closed with its manager", errs.Invalid))
	}
	ctx, stop := s.c.closeContext()
	defer stop()
	return s.close(ctx)
}

// close ends the session and revokes its lease. If another call does so already, close waits for
// it until ctx ends.
func (s *Session) close(ctx context.Context) error {
	if !s.closing.CompareAndSwap(false, true) {
		select {
		case <-s.closed:
			return s.closeErr
		case <-ctx.Done():
			return stillClosingError("close session", wire.FormatLeaseID(s.id), s.c.waitError(ctx))
		}
	}
	defer close(s.closed)
	if cause := s.Err(); cause != nil {
		if errors.Is(cause, ErrExpired) && !errors.Is(cause, ErrNotFound) {
			s.c.revokeOnce(ctx, s.id)
		}
		return nil
	}
	if !s.end(errs.ClosedError("session")) {
		return nil
	}
	if err := s.c.revoke(ctx, s.id); err != nil && !errors.Is(err, ErrNotFound) {
		s.closeErr = err
	}
	return s.closeErr
}

// Orphan ends the session without revoking its lease, so that another session can adopt it with
// [WithLease] before it expires. It does nothing to a shared session.
func (s *Session) Orphan() {
	if s.pool == nil {
		s.end(errs.ClosedError("session"))
	}
}

// extend moves the deadline after a renewal that was sent at sentAt.
func (s *Session) extend(sentAt time.Time, ttl time.Duration) {
	if s.Err() != nil {
		return // the response came too late
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ttl, s.renewErr = ttl, nil
	if d := newDeadline(sentAt, ttl); s.deadline.before(d) {
		s.deadline = d
	}
}

// suspend records that a renewal failed.
func (s *Session) suspend(err error) {
	s.mu.Lock()
	s.renewErr = err
	s.mu.Unlock()
}

// onDeadline ends the session. If a renewal has moved the deadline, it re-arms the timer instead.
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

// lose ends the session as lost, unless it has already ended. condition is what is known beyond the
// deadline, or nil. renewErr is the error that reported it; if nil, that of the last renewal.
func (s *Session) lose(condition, renewErr error) {
	s.mu.Lock()
	if renewErr == nil {
		renewErr = s.renewErr
	}
	s.mu.Unlock()
	loss := &lossError{condition: condition, renewErr: renewErr}
	defer s.c.scope.HoldHooks()() // before the session ends, so that Close waits for the hook
	if !s.end(loss) {
		return
	}
	s.c.lost.Add(1)
	s.c.log.WarnContext(s.c.ctx, "lease lost", "lease", wire.FormatLeaseID(s.id), "cause", loss)
	s.c.scope.LeaseLost(s.c.ctx, loss)
}

// end ends the session. It returns false if the session had already ended.
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

// sessionContext is the context of a session. It wraps a cancelable context of the standard
// library, so that derived contexts need no goroutine each. Its Err method also checks the clock.
type sessionContext struct {
	context.Context //nolint:containedctx // it is one

	s *Session
}

// Err returns nil while the session is valid. Once it returns an error, Done is closed and the
// cause is set.
func (c sessionContext) Err() error {
	if cause := c.s.Err(); cause != nil {
		c.s.cancel(cause) // the goroutine that ended the session may not have called cancel yet
	}
	return c.Context.Err()
}
