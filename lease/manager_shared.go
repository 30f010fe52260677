package lease

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/etcdkit/etcdkit/internal/errs"
)

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
	options, err := newSessionOptions(m.ttl, opts)
	if options.hasLease {
		err = errors.Join(err, fmt.Errorf("%w: WithLease: a shared session has a lease of its own", errs.Invalid))
	}
	if err != nil {
		return nil, opError(op, "", err)
	}
	s, err := m.poolFor(options.ttl).get(ctx, reserve)
	if err != nil {
		return nil, opError(op, "", err)
	}
	return s, nil
}
