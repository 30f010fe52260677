package lease

import (
	"sync"

	"go.etcd.io/etcd/client/v3/concurrency"
)

// concurrencySession is a session in the form of client/v3's concurrency package.
type concurrencySession struct {
	once    sync.Once
	session *concurrency.Session
}

// Concurrency returns the session for use with the mutexes and elections of client/v3's concurrency package, which are
// outside of the manager's namespace. It is the same for each call and ends with this session, in time; do not close it,
// which would revoke the lease. client/v3 renews the lease too while it is in use: once more per TTL/3, on a
// stream of its own. It is nil when the session has ended or the client has no Lease.
func (s *Session) Concurrency() *concurrency.Session {
	if s.Err() != nil || s.c.cli.Lease == nil {
		return nil
	}
	s.concurrency.once.Do(func() {
		session, err := concurrency.NewSession(s.c.cli, concurrency.WithLease(s.id), concurrency.WithContext(s.ctx))
		if err == nil { // sends nothing; the error is that of a closed client
			s.concurrency.session = session
		}
	})
	return s.concurrency.session
}
