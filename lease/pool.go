package lease

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

const (
	// maxUsers is how many users share one lease. All keys on a lease are deleted in one
	// transaction when it ends, and all its users are affected when it is lost.
	maxUsers = 256
	// poolIdleTimeout is how long a session without users is kept for the next one.
	poolIdleTimeout = time.Minute
)

// pool holds the shared sessions of one TTL. Shared returns the same one until it is lost, and does
// not count its callers. Acquire distributes its users over as many sessions as needed.
type pool struct {
	c   *core
	ttl time.Duration

	mu       sync.Mutex
	sessions []*Session
	pending  *openAttempt
}

// poolState is the state of a pooled session. pool.mu guards it.
type poolState struct {
	pool    *pool // nil if the session is not pooled
	users   int
	shared  bool // returned by Shared; kept until the manager is closed
	retired bool // takes no new users, because a key on it may still be created

	idleSince time.Time // valid while users is 0
	idleTimer *time.Timer
}

// openAttempt is an attempt to open a session. All callers that need one wait for it.
type openAttempt struct {
	done    chan struct{}
	session *Session
	err     error
}

// poolFor returns the pool of a TTL, which it rounds up to whole seconds, the unit of etcd.
func (c *core) poolFor(ttl time.Duration) *pool {
	ttl = (ttl + time.Second - 1).Truncate(time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pools[ttl]
	if p == nil {
		p = &pool{c: c, ttl: ttl}
		c.pools[ttl] = p
	}
	return p
}

// get returns a live session. If reserve is set, it returns one with fewer than maxUsers users and
// counts the user.
func (p *pool) get(ctx context.Context, reserve bool) (*Session, error) {
	for {
		if err := retry.ContextError(ctx); err != nil {
			return nil, err
		}
		s, attempt := p.pick(reserve)
		if s != nil {
			return s, nil
		}
		select {
		case <-attempt.done:
			if attempt.err != nil {
				return nil, attempt.err
			}
			// If the session is already lost, another attempt is unlikely to do better.
			if err := attempt.session.Err(); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, p.c.waitError(ctx)
		}
	}
}

// pick returns a session, or the attempt to wait for if none is usable.
func (p *pool) pick(reserve bool) (*Session, *openAttempt) {
	for _, s := range p.removeLost(time.Now()) {
		_ = s.Err() // ends the session if its timer has not fired yet
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	usable := func(s *Session) bool { return s.shared || !s.retired && !p.hasShared() }
	if reserve {
		usable = func(s *Session) bool { return !s.retired && s.users < maxUsers }
	}
	if i := slices.IndexFunc(p.sessions, usable); i >= 0 {
		s := p.sessions[i]
		if reserve {
			s.users++
		} else {
			s.shared = true
		}
		return s, nil
	}
	if p.pending == nil {
		attempt := &openAttempt{done: make(chan struct{})}
		p.pending = attempt
		if !p.c.runInBackground(func() { p.open(attempt) }) {
			attempt.err = errs.ClosedError("lease manager")
			close(attempt.done)
		}
	}
	return nil, p.pending
}

// hasShared reports whether Shared has returned one of the sessions. It must be called with p.mu
// held.
func (p *pool) hasShared() bool {
	return slices.ContainsFunc(p.sessions, func(s *Session) bool { return s.shared })
}

// removeLost removes the sessions that have ended and returns them.
func (p *pool) removeLost(now time.Time) (lost []*Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions = slices.DeleteFunc(p.sessions, func(s *Session) bool {
		ended := s.hasEnded(now)
		if ended {
			lost = append(lost, s)
		}
		return ended
	})
	return lost
}

// open opens a session and completes the attempt.
func (p *pool) open(attempt *openAttempt) {
	res, err := p.c.grant(p.c.ctx, p.ttl)
	var s *Session
	if err == nil {
		if s, err = p.c.startSession(res, p.c.rootNamespace, p); err != nil {
			p.c.revokeInBackground(res.id)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.sessions = append(p.sessions, s)
		p.scheduleClose(s) // all callers may have given up
	}
	attempt.session, attempt.err = s, err
	p.pending = nil
	close(attempt.done)
}

// release releases one user of a session.
func (p *pool) release(s *Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.users--
	p.scheduleClose(s)
}

// retire stops a session from taking new users. The session is closed when its last user has
// released it, unless Shared has returned it.
func (p *pool) retire(s *Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.retired = true
	p.scheduleClose(s)
}

// scheduleClose schedules the closing of a session that has no users. A retired session is closed
// at once, any other after poolIdleTimeout. It must be called with p.mu held.
func (p *pool) scheduleClose(s *Session) {
	if s.users > 0 || s.shared {
		return
	}
	s.idleSince = time.Now()
	closeIdle := func() { p.c.runInBackground(func() { p.closeIdle(s) }) }
	switch {
	case s.retired:
		closeIdle()
	case s.idleTimer == nil:
		s.idleTimer = time.AfterFunc(poolIdleTimeout, closeIdle)
	default:
		s.idleTimer.Reset(poolIdleTimeout)
	}
}

// closeIdle closes a session, unless it is in use or was used within poolIdleTimeout.
func (p *pool) closeIdle(s *Session) {
	p.mu.Lock()
	i := slices.Index(p.sessions, s)
	if i < 0 || s.users > 0 || s.shared || !s.retired && time.Since(s.idleSince) < poolIdleTimeout {
		p.mu.Unlock()
		return
	}
	p.sessions = slices.Delete(p.sessions, i, i+1)
	p.mu.Unlock()
	ctx, stop := p.c.closeContext()
	defer stop()
	if err := s.close(ctx); err != nil {
		p.c.log.WarnContext(ctx, "a lease is left to expire", "lease", wire.FormatLeaseID(s.id), "error", err)
	}
}
