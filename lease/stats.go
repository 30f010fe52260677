package lease

// Stats is what a manager has and did, over all namespaces. Counters start at 0 and only grow.
type Stats struct {
	Sessions  int `json:"sessions"`  // that live, shared ones included
	Suspended int `json:"suspended"` // of those, whose renewals fail at present
	Keys      int `json:"keys"`      // that are kept

	Renewals uint64 `json:"renewals"` // answered
	Failures uint64 `json:"failures"` // streams that failed
	Streams  uint64 `json:"streams"`  // streams that were opened, or tried to be
	Lost     uint64 `json:"lost"`     // sessions that ended other than by being closed
	Retries  uint64 `json:"retries"`  // attempts of other calls beyond the first of each
}

// Stats returns the counters. It sends nothing.
func (m *Manager) Stats() Stats {
	if m.engine == nil {
		return Stats{}
	}
	s := Stats{
		Renewals: m.renewer.renewals.Load(), Failures: m.renewer.failures.Load(), Streams: m.renewer.streams.Load(),
		Lost: m.lost.Load(), Retries: m.engine.Stats().Retries,
	}
	for _, session := range m.renewer.liveSessions() {
		s.Sessions++
		if session.State() == Suspended {
			s.Suspended++
		}
	}
	m.mu.Lock()
	s.Keys = len(m.keys)
	m.mu.Unlock()
	return s
}
