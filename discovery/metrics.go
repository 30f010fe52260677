package discovery

import (
	"time"

	"github.com/etcdkit/etcdkit/internal/scope"
)

// metrics describes the fields of Stats. The views of a registry that share a watch count once.
//
//nolint:gochecknoglobals // a constant
var metrics = scope.Table[Stats]{Package: "discovery", Label: "service", Fields: []scope.Field[Stats]{
	scope.Gauge("instances", "Instances shown.", func(s *Stats) int { return s.Instances }),
	scope.Gauge("draining", "Instances shown that are draining.", func(s *Stats) int { return s.Draining }),
	scope.Gauge("held", "Instances shown that were lost and are held back.", func(s *Stats) int { return s.Held }),
	scope.Gauge("malformed", "Entries that cannot be decoded.", func(s *Stats) int { return s.Malformed }),
	scope.Age("age_seconds", "Bound of the time for which changes may have been missed.", func(s *Stats) time.Duration { return s.Age }),
	scope.Gauge("live", "Watches that deliver changes as they happen.", func(s *Stats) int {
		if s.Live {
			return 1
		}
		return 0
	}),
	scope.Counter("updates_total", "Changes and lists received.", func(s *Stats) uint64 { return s.Updates }),
	scope.Counter("bad_seen_total", "Bad entries received.", func(s *Stats) uint64 { return s.BadSeen }),
	scope.Counter("restarts_total", "Watches reopened.", func(s *Stats) uint64 { return s.Restarts }),
	scope.Gauge("users", "Views that share the watch, including resolvers.", func(s *Stats) int { return s.Users }),
}}
