package kv

import (
	"time"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// AgeSlots lets the operation slots of s look older by d.
func (s *Store) AgeSlots(d time.Duration) {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	s.slots.usableUntil = s.slots.usableUntil.Add(-d)
}

// AgeTTLs lets the leases of WithTTL that s shares look older by d.
func (s *Store) AgeTTLs(d time.Duration) {
	s.ttls.mu.Lock()
	defer s.ttls.mu.Unlock()
	for _, e := range s.ttls.entries {
		e.lease.usableUntil = e.lease.usableUntil.Add(-d)
	}
}

// Simulate makes the second attempts of s go to m. Its calls pass an observer.
func (s *Store) Simulate(m retry.Members) {
	s.engine = retry.New(retry.Config{Client: s.cli, Observed: true, Members: m})
}
