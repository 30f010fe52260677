package lease

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// usersMost is how many users one shared lease carries. A lease that ends deletes its keys in one transaction, and one
// that is lost is lost for all of them.
const usersMost = 256

// pool is the shared sessions of one TTL. The first of them is for everybody; those who say when they are done are
// spread over as many as it takes.
type pool struct {
	c   *core
	ttl time.Duration

	mu       sync.Mutex
	sessions []*Session
	opening  *opening
}

// opening is a session on its way, for all who wait for it.
type opening struct {
	done    chan struct{}
	session *Session
	err     error
}

// pool returns that of a TTL.
func (m *Manager) pool(ttl time.Duration) *pool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pools[ttl]
	if p == nil {
		p = &pool{c: m.core, ttl: ttl}
		m.pools[ttl] = p
	}
	return p
}

// Shared returns the client's session, opening it when there is none or the last one was lost. It is the same for all
// who ask, over all namespaces, until it is lost; it ends with the manager, and closing it is refused. No RPC when it
// is there.
//
// A session that is being opened is opened for everybody: ctx bounds the wait for it, and its own bound, the write
// time-out, applies too.
//
// Callers of Shared are not counted. Whoever puts many keys on the lease should use [Manager.Acquire].
func (m *Manager) Shared(ctx context.Context) (*Session, error) {
	const op = "shared session"
	if err := m.ready(); err != nil {
		return nil, fail(op, "", err)
	}
	return m.pool(m.ttl).get(ctx, op, false)
}

// Acquire is [Manager.Shared] for one key: a shared session that carries fewer than 256 of those who have acquired and
// not released it; a further one is opened when there is none. release is called when the key is gone; it may be called
// several times. Leases that are no longer needed are kept for the next time.
func (m *Manager) Acquire(ctx context.Context) (s *Session, release func(), err error) {
	return m.acquire(ctx, m.ttl)
}

func (m *Manager) acquire(ctx context.Context, ttl time.Duration) (s *Session, release func(), err error) {
	const op = "acquire session"
	if err := m.ready(); err != nil {
		return nil, nil, fail(op, "", err)
	}
	p := m.pool(ttl)
	s, err = p.get(ctx, op, true)
	if err != nil {
		return nil, nil, err
	}
	return s, sync.OnceFunc(func() { p.release(s) }), nil
}

// get returns a session that lives; with reserve, one that has room, which is taken.
func (p *pool) get(ctx context.Context, op string, reserve bool) (*Session, error) {
	if ctx == nil {
		return nil, fail(op, "", errNoContext)
	}
	for {
		if err := retry.ContextError(ctx); err != nil {
			return nil, fail(op, "", err)
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
				return nil, fail(op, "", err)
			}
		case <-ctx.Done():
			return nil, fail(op, "", p.c.gaveUp(ctx))
		}
	}
}

// pick returns a session, or the opening to wait for.
func (p *pool) pick(reserve bool) (*Session, *opening) {
	var over []*Session
	defer func() { // without the lock: whoever is told of a loss may come here
		for _, s := range over {
			_ = s.Err()
		}
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.sessions = slices.DeleteFunc(p.sessions, func(s *Session) bool {
		if s.over(now) {
			over = append(over, s)
			return true
		}
		return false
	})
	for _, s := range p.sessions {
		if !reserve {
			return s, nil
		}
		if s.users < usersMost {
			s.users++
			return s, nil
		}
	}
	if p.opening == nil {
		o := &opening{done: make(chan struct{})}
		p.opening = o
		if !p.c.job(func() { p.open(o) }) {
			o.err = fail("shared session", "", ErrClosed)
			close(o.done)
		}
	}
	return nil, p.opening
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
	}
	o.session, o.err = s, err
	p.opening = nil
	close(o.done)
}

// release gives a place on a session back.
func (p *pool) release(s *Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.users--
}
