package lease

import "github.com/etcdkit/etcdkit/internal/scope"

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
		if session.suspended() {
			s.Suspended++
		}
	}
	m.mu.Lock()
	s.Keys = len(m.keys)
	m.mu.Unlock()
	return s
}

// metrics describes the fields of Stats.
//
//nolint:gochecknoglobals // a constant
var metrics = scope.Table[Stats]{Package: "lease", Fields: []scope.Field[Stats]{
	scope.Gauge("sessions", "Live sessions.", func(s *Stats) int { return s.Sessions }),
	scope.Gauge("sessions_suspended", "Live sessions whose last renewal failed.", func(s *Stats) int { return s.Suspended }),
	scope.Gauge("keys", "Open keys.", func(s *Stats) int { return s.Keys }),
	scope.Counter("renewals_total", "Renewals that were answered.", func(s *Stats) uint64 { return s.Renewals }),
	scope.Counter("stream_failures_total", "Renewal streams that failed.", func(s *Stats) uint64 { return s.Failures }),
	scope.Counter("streams_total", "Attempts to open a renewal stream.", func(s *Stats) uint64 { return s.Streams }),
	scope.Counter("sessions_lost_total", "Sessions that were lost.", func(s *Stats) uint64 { return s.Lost }),
	scope.Counter("retries_total", "Attempts beyond the first of a call about leases.", func(s *Stats) uint64 { return s.Retries }),
}}
