package lease

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Shared returns the shared session, and opens one if there is none or the last one was lost. All
// callers with the same TTL, in all namespaces, get the same session until it is lost. The session
// ends with the manager; its Close returns an error. The only option is [WithTTL]. Shared sends
// nothing if the session exists.
//
// Concurrent callers wait for a single attempt to open the session, each until its own ctx ends.
// The attempt continues when a caller gives up; the write timeout bounds it.
//
// Shared does not limit the number of keys on the lease. To put many keys on leases, use
// [Manager.Acquire].
func (m *Manager) Shared(ctx context.Context, o ...SessionOption) (*Session, error) {
	return m.pooledSession(ctx, "shared session", o, false)
}

// Acquire returns a shared session for one key, like [Manager.Shared], but limits the users of a
// session to 256: if all sessions have as many, it opens another one. The caller is a user until it
// calls release, which it must do when the key is gone. Further calls of release do nothing. A
// session is closed one minute after its last release, unless Shared has returned it.
func (m *Manager) Acquire(ctx context.Context, o ...SessionOption) (s *Session, release func(), err error) {
	s, err = m.pooledSession(ctx, "acquire session", o, true)
	if err != nil {
		return nil, nil, err
	}
	release = s.releaseOnce()
	return s, release, nil
}

// releaseOnce returns a function that releases one user of a pooled session.
func (s *Session) releaseOnce() func() {
	var released atomic.Bool // sync.OnceFunc takes three times the memory per key
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
