package cache

import (
	"time"

	"github.com/etcdkit/etcdkit/internal/scope"
)

// measured is what the metrics of a cache or a replica are computed from.
type measured struct {
	Stats

	Age time.Duration
}

// metrics describes the fields of measured.
//
//nolint:gochecknoglobals // a constant
var metrics = scope.Table[measured]{Package: "cache", Label: "dir", Fields: []scope.Field[measured]{
	scope.Counter("hits_total", "Reads answered from memory.", func(s *measured) uint64 { return s.Hits }),
	scope.Counter("misses_total", "Reads not answered from memory.", func(s *measured) uint64 { return s.Misses }),
	scope.Counter("fills_total", "Reads of etcd for a cache.", func(s *measured) uint64 { return s.Fills }),
	scope.Counter("invalidations_total", "Entries removed or replaced because of a change.", func(s *measured) uint64 { return s.Invalidations }),
	scope.Counter("evictions_total", "Entries removed to make room.", func(s *measured) uint64 { return s.Evictions }),
	scope.Counter("stale_total", "Reads beyond the bound of staleness.", func(s *measured) uint64 { return s.Stale }),
	scope.Counter("bad_entries_total", "Values received that did not decode.", func(s *measured) uint64 { return s.BadEntries }),
	scope.Counter("restarts_total", "Watches that ended and were reopened.", func(s *measured) uint64 { return s.Restarts }),
	scope.Gauge("entries", "Entries in memory, including absent keys of a Cache.", func(s *measured) int { return s.Entries }),
	scope.Gauge("bad", "Keys of a Replica whose current value does not decode.", func(s *measured) int { return s.Bad }),
	scope.Age("age_seconds", "Bound of the time for which changes may have been missed.", func(s *measured) time.Duration { return s.Age }),
}}
