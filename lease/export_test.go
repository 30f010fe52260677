package lease

import "time"

// Sleep makes a session believe that the wall clock has gone on by d while the monotonic one stood still, as they do
// while a machine is suspended.
func (s *Session) Sleep(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trust.wall = s.trust.wall.Add(-d)
}

// SweepAfter changes when what a closed key may have left behind is swept away.
func (m *Manager) SweepAfter(first, second time.Duration) {
	m.sweepAfter = []time.Duration{first, second}
}
