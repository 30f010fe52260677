package lease

import (
	"sync"

	"go.etcd.io/etcd/client/v3/concurrency"
)

// concurrencySession holds the session of client/v3's concurrency package.
type concurrencySession struct {
	once    sync.Once
	session *concurrency.Session
}

// Concurrency returns a session of client/v3's concurrency package on the same lease, for that
// package's mutexes and elections. Their keys are not in the manager's namespace. Each call returns
// the same value. It ends with this session, before the lease expires. Do not close it: that would
// revoke the lease. While it is in use, client/v3 renews the lease as well, which costs one more
// message per TTL/3 on a stream of its own. Concurrency returns nil if the session has ended or the
// client has no Lease.
func (s *Session) Concurrency() *concurrency.Session {
	if s.Err() != nil || s.c.cli.Lease == nil {
		return nil
	}
	s.concurrency.once.Do(func() {
		session, err := concurrency.NewSession(s.c.cli, concurrency.WithLease(s.id), concurrency.WithContext(s.ctx))
		if err == nil { // nothing is sent; it fails only if the client is closed
			s.concurrency.session = session
		}
	})
	return s.concurrency.session
}
