package lease

import "github.com/etcdkit/etcdkit/internal/scope"

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
