package lock

import (
	"weak"

	"github.com/etcdkit/etcdkit/internal/scope"
)

// metrics describes the fields of Stats.
//
//nolint:gochecknoglobals // a constant
var metrics = scope.Table[Stats]{Package: "lock", Fields: []scope.Field[Stats]{
	scope.Gauge("held", "Holds that were granted and neither lost nor released.", func(s *Stats) int { return s.Held }),
	scope.Gauge("waiting", "Calls that wait.", func(s *Stats) int { return s.Waiting }),
	scope.Gauge("names", "Queues in use.", func(s *Stats) int { return s.Names }),
	scope.Gauge("watched", "Open watches of keys.", func(s *Stats) int { return s.Watched }),
	scope.Counter("waits_total", "Waits begun.", func(s *Stats) uint64 { return s.Waits }),
	scope.Counter("acquired_total", "Holds granted.", func(s *Stats) uint64 { return s.Acquired }),
	scope.Counter("turns_total", "Holds taken over from another goroutine of the process.", func(s *Stats) uint64 { return s.Turns }),
	scope.Counter("lost_total", "Holds lost.", func(s *Stats) uint64 { return s.Lost }),
	scope.Counter("swept_total", "Keys removed in the background.", func(s *Stats) uint64 { return s.Swept }),
	scope.Counter("reopened_total", "Watch streams that broke or could not be opened.", func(s *Stats) uint64 { return s.Reopened }),
	scope.Counter("confirmed_total", "Reads because a watch may have missed changes.", func(s *Stats) uint64 { return s.Confirmed }),
}}

// track adds the metrics of the locker, which they do not keep reachable.
func (l *Locker) track() *scope.Part {
	self, counters, keys := weak.Make(l), l.counters, l.keyWatcher
	return scope.Track(l.scope, metrics, "", func() Stats {
		if l := self.Value(); l != nil {
			return l.Stats()
		}
		return counters.stats(keys)
	})
}
