package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

const (
	// maxUsers is how many users one shared lease carries. A lease that ends deletes its keys in one transaction, and one
	// that is lost is lost for all of them.
	maxUsers = 256
	// poolIdleTimeout is how long a session without users is kept for the next one.
	poolIdleTimeout = time.Minute
)

// pool holds the shared sessions of one TTL. One of them is for the callers of Shared, who are not counted; those who
// acquire and release are spread over as many as it takes.
type pool struct {
	c   *core
	ttl time.Duration

	mu       sync.Mutex
	sessions []*Session
	opening  *opening
}

// pooled is what a pool notes about a session. The pool's lock guards it.
type pooled struct {
	pool    *pool // nil: the session is its opener's
	users   int
	shared  bool // returned by Shared: kept until the manager is closed
	retired bool // a key on it may be created late: it takes no new users

	idleSince time.Time // meaningful while there are no users
	idleTimer *time.Timer
}

// opening is one attempt to open a session, for all who wait for it.
type opening struct {
	done    chan struct{}
	session *Session
	err     error
}

// poolOf returns the pool of a TTL, rounded up to whole seconds as etcd counts them.
func (c *core) poolOf(ttl time.Duration) *pool {
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

// Shared returns the client's session, opening it when there is none or the last one was lost. It is the same for all
// callers that give the same TTL, over all namespaces, until it is lost. It ends with the manager, and closing it is
// refused. The only option is [WithTTL]. No RPC when the session is there.
//
// Callers that need a session at the same time wait for one attempt to open it, each until its own ctx ends. The attempt
// goes on when a caller gives up; the write timeout bounds it.
//
// Callers of Shared are not counted. If you put many keys on the lease, use [Manager.Acquire].
func (m *Manager) Shared(ctx context.Context, o ...SessionOption) (*Session, error) {
	return m.pooledSession(ctx, "shared session", o, false)
}

// Acquire returns a shared session for one key, as [Manager.Shared] does, but one that carries fewer than 256 of those
// who have acquired and not released it; it opens a further one if there is none. Call release when the key is gone;
// further calls of it do nothing. A session is kept for a minute after its last release, and then closed, unless Shared
// has returned it.
func (m *Manager) Acquire(ctx context.Context, o ...SessionOption) (s *Session, release func(), err error) {
	s, err = m.pooledSession(ctx, "acquire session", o, true)
	if err != nil {
		return nil, nil, err
	}
	release = s.releaseOnce()
	return s, release, nil
}

// releaseOnce returns a function that counts the caller out as a user of a pooled session.
func (s *Session) releaseOnce() func() {
	var released atomic.Bool // sync.OnceFunc takes three times the memory, for each key
	return func() {
		if released.CompareAndSwap(false, true) {
			s.pool.release(s)
		}
	}
}

func (m *Manager) pooledSession(ctx context.Context, op string, opts []SessionOption, reserve bool) (*Session, error) {
	if err := m.ready(); err != nil {
		return nil, opError(op, "", err)
	}
	set, err := newSessionSettings(m.ttl, opts)
	if set.leaseSet {
		err = errors.Join(err, fmt.Errorf("%w: WithLease: a shared session has a lease of its own", errs.Invalid))
	}
	if err != nil {
		return nil, opError(op, "", err)
	}
	s, err := m.poolOf(set.ttl).get(ctx, reserve)
	if err != nil {
		return nil, opError(op, "", err)
	}
	return s, nil
}

// get returns a live session; with reserve, one that has room, and counts the user.
func (p *pool) get(ctx context.Context, reserve bool) (*Session, error) {
	if ctx == nil {
		return nil, errNoContext
	}
	for {
		if err := retry.ContextError(ctx); err != nil {
			return nil, err
		}
		s, o := p.pick(reserve)
		if s != nil {
			return s, nil
		}
		select {
		case <-o.done:
			if o.err != nil {
				return nil, o.err
			}
			if err := o.session.Err(); err != nil { // already: that is no time to go on trying
				return nil, err
			}
		case <-ctx.Done():
			return nil, p.c.gaveUp(ctx)
		}
	}
}

// pick returns a session, or the opening to wait for.
func (p *pool) pick(reserve bool) (*Session, *opening) {
	for _, s := range p.takeLost(time.Now()) {
		_ = s.Err() // ends it, in case no timer has noticed yet
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	suits := func(s *Session) bool { return s.shared || !s.retired && !p.hasShared() }
	if reserve {
		suits = func(s *Session) bool { return !s.retired && s.users < maxUsers }
	}
	if i := slices.IndexFunc(p.sessions, suits); i >= 0 {
		s := p.sessions[i]
		if reserve {
			s.users++
		} else {
			s.shared = true
		}
		return s, nil
	}
	if p.opening == nil {
		o := &opening{done: make(chan struct{})}
		p.opening = o
		if !p.c.job(func() { p.open(o) }) {
			o.err = errs.ClosedError("lease manager")
			close(o.done)
		}
	}
	return nil, p.opening
}

// hasShared reports whether one of the sessions was returned by Shared.
func (p *pool) hasShared() bool {
	return slices.ContainsFunc(p.sessions, func(s *Session) bool { return s.shared })
}

// takeLost removes the sessions that have ended, and returns them.
func (p *pool) takeLost(now time.Time) (lost []*Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions = slices.DeleteFunc(p.sessions, func(s *Session) bool {
		over := s.over(now)
		if over {
			lost = append(lost, s)
		}
		return over
	})
	return lost
}

// open opens a session for all who wait.
func (p *pool) open(o *opening) {
	t, err := p.c.grant(p.c.life, p.ttl)
	var s *Session
	if err == nil {
		if s, err = p.c.open(t, p.c.root, p); err != nil {
			p.c.abandon(t.id)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.sessions = append(p.sessions, s)
		p.idle(s) // nobody may want it any more
	}
	o.session, o.err = s, err
	p.opening = nil
	close(o.done)
}

// release counts a user out.
func (p *pool) release(s *Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.users--
	p.idle(s)
}

// retire has a session take no new users. It is closed with the last one.
func (p *pool) retire(s *Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.retired = true
	p.idle(s)
}

// idle has a session without users closed, in time. The lock is held.
func (p *pool) idle(s *Session) {
	if s.users > 0 || s.shared {
		return
	}
	s.idleSince = time.Now()
	closeIdle := func() { p.c.job(func() { p.closeIdle(s) }) }
	switch {
	case s.retired:
		closeIdle()
	case s.idleTimer == nil:
		s.idleTimer = time.AfterFunc(poolIdleTimeout, closeIdle)
	default:
		s.idleTimer.Reset(poolIdleTimeout)
	}
}

// closeIdle closes a session unless it is in use, or was a moment ago.
func (p *pool) closeIdle(s *Session) {
	p.mu.Lock()
	i := slices.Index(p.sessions, s)
	if i < 0 || s.users > 0 || s.shared || !s.retired && time.Since(s.idleSince) < poolIdleTimeout {
		p.mu.Unlock()
		return
	}
	p.sessions = slices.Delete(p.sessions, i, i+1)
	p.mu.Unlock()
	ctx, stop := p.c.parting()
	defer stop()
	if err := s.close(ctx); err != nil {
		p.c.log.WarnContext(ctx, "a lease is left to expire", "lease", named(s.id), "error", err)
	}
}
