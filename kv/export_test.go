package kv

import "time"

// AgeSlots lets the operation slots of s look older by d.
func (s *Store) AgeSlots(d time.Duration) {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	s.slots.until = s.slots.until.Add(-d)
}
