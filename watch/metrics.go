package watch

import "github.com/etcdkit/etcdkit/internal/scope"

// metrics describes the fields of Stats.
//
//nolint:gochecknoglobals // a constant
var metrics = scope.Table[Stats]{Package: "watch", Fields: []scope.Field[Stats]{
	scope.Gauge("active", "Running watches and subscriptions.", func(s *Stats) int { return s.Active }),
	scope.Gauge("server_watches", "Server-side watches that they share.", func(s *Stats) int { return s.ServerWatches }),
	scope.Gauge("streams", "Open gRPC streams of watches.", func(s *Stats) int { return s.Streams }),
	scope.Counter("batches_total", "Batches delivered.", func(s *Stats) uint64 { return s.Batches }),
	scope.Counter("events_total", "Events delivered.", func(s *Stats) uint64 { return s.Events }),
	scope.Counter("folded_total", "Changes left out for slow consumers.", func(s *Stats) uint64 { return s.Folded }),
	scope.Counter("reconnects_total", "Failures after which a server-side watch was reopened.", func(s *Stats) uint64 { return s.Reconnects }),
	scope.Counter("resyncs_total", "Lists that brought a state watch up to date.", func(s *Stats) uint64 { return s.Resyncs }),
	scope.Counter("replays_total", "Replays of history for a single watch.", func(s *Stats) uint64 { return s.Replays }),
	scope.Counter("overflows_total", "Watches that lagged too far and lost their place.", func(s *Stats) uint64 { return s.Overflows }),
}}
