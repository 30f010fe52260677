package lock

import (
	"sync/atomic"
	"weak"

	"github.com/etcdkit/etcdkit/internal/keywatch"
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

// counters holds the counters of Stats.
type counters struct {
	acquired, lost, turns, swept, confirmed atomic.Uint64
	held                                    atomic.Int64
	waiting                                 waitCounter
}

// waitCounter is the number of waits in progress, with the number of waits begun.
type waitCounter struct {
	atomic.Int64

	begun atomic.Uint64
}

// Add begins or ends a wait.
func (c *waitCounter) Add(d int64) {
	if d > 0 {
		c.begun.Add(1)
	}
	c.Int64.Add(d)
}

// Stats describes the state and the history of a locker. Counters start at 0 and never decrease.
type Stats struct {
	Held    int `json:"held"`    // holds that were granted and neither lost nor released
	Waiting int `json:"waiting"` // calls that wait
	Names   int `json:"names"`   // queues in use
	// Watched is the number of keys that are watched because they are waited for, observed, or held
	// for more than 250 ms.
	Watched int `json:"watched"`

	Waits    uint64 `json:"waits"`    // waits begun: within this process, in etcd's queue, at a barrier
	Acquired uint64 `json:"acquired"` // holds granted
	Turns    uint64 `json:"turns"`    // of these, taken over within this process
	Lost     uint64 `json:"lost"`     // holds lost
	Swept    uint64 `json:"swept"`    // keys removed in the background
	Reopened uint64 `json:"reopened"` // watch streams that broke or could not be opened
	// Confirmed counts reads made because a watch may have missed changes or could not be opened.
	Confirmed uint64 `json:"confirmed"`
}

// stats returns the statistics, except for Names. keys may be nil.
func (c *counters) stats(keys *keywatch.Watcher) Stats {
	s := Stats{
		Held: int(c.held.Load()), Waiting: int(c.waiting.Load()), Waits: c.waiting.begun.Load(), Acquired: c.acquired.Load(),
		Turns: c.turns.Load(), Lost: c.lost.Load(), Swept: c.swept.Load(), Confirmed: c.confirmed.Load(),
	}
	if keys != nil {
		s.Watched, s.Reopened = keys.Open(), keys.Reopened()
	}
	return s
}

// Stats returns the counters. It sends nothing.
func (l *Locker) Stats() Stats {
	s := l.counters.stats(l.keyWatcher)
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Names = len(l.queues)
	return s
}
