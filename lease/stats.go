package lease

// Stats holds the state and the counters of a manager, over all namespaces. Counters start at 0 and
// only grow.
type Stats struct {
	Sessions  int `json:"sessions"`  // live sessions, including shared ones
	Suspended int `json:"suspended"` // live sessions whose last renewal failed
	Keys      int `json:"keys"`      // open keys

	Renewals uint64 `json:"renewals"` // renewals that were answered
	Failures uint64 `json:"failures"` // streams that failed; idle ones are not counted
	Streams  uint64 `json:"streams"`  // attempts to open a stream
	Lost     uint64 `json:"lost"`     // sessions that were lost
	Retries  uint64 `json:"retries"`  // attempts of other calls after the first
}

// Stats returns the current state and counters. It sends nothing.
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
