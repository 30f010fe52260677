package lease

import (
	"time"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// Sleep makes a session believe that the wall clock has gone on by d while the monotonic one stood still, as they do
// while a machine is suspended.
func (s *Session) Sleep(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trust.wall = s.trust.wall.Add(-d)
}

// OpenLate opens the session of a lease that was granted a whole TTL ago, as it is in a process that was stopped between
// the answer and its next step.
func (m *Manager) OpenLate(ttl time.Duration) error {
	_, err := m.open(term{id: wire.NewLeaseID(), asked: time.Now().Add(-ttl), ttl: ttl}, m.ns, nil)
	return err
}

// ShortestTTL returns the shortest of some TTLs, as the loop that renews finds it.
func ShortestTTL(ttls ...time.Duration) time.Duration {
	var due []outstanding
	for _, ttl := range ttls {
		due = append(due, outstanding{turn: &turn{ttl: ttl}})
	}
	return shortestTTL(due)
}
