package lease

import (
	"time"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Simulate makes the second attempts of m go to members. Its calls pass an observer.
func (m *Manager) Simulate(members retry.Members) {
	m.engine = retry.New(retry.Config{Client: m.cli, Observed: true, Members: members})
}

// AdvanceWallClock makes a session believe that the wall clock has gone on by d while the monotonic
// one stood still, as they do while a machine is suspended.
func (s *Session) AdvanceWallClock(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline.wall = s.deadline.wall.Add(-d)
}

// StartExpiredSession opens the session of a lease that was granted a whole TTL ago, as it is in a
// process that was stopped between the answer and its next step.
func (m *Manager) StartExpiredSession(ttl time.Duration) error {
	_, err := m.startSession(leaseResult{id: wire.NewLeaseID(), sentAt: time.Now().Add(-ttl), ttl: ttl}, m.ns, nil)
	return err
}

// ShortestTTL returns the shortest of some TTLs, as the loop that renews finds it.
func ShortestTTL(ttls ...time.Duration) time.Duration {
	var due []pendingRenewal
	for _, ttl := range ttls {
		due = append(due, pendingRenewal{renewalSchedule: &renewalSchedule{ttl: ttl}})
	}
	return shortestTTL(due)
}
