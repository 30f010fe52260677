package watch

import (
	"cmp"
	"slices"
	"strconv"
	"time"
)

// State is the state of a watch.
type State int

const (
	// StateSyncing means that the watch is being opened, lists, or reads history. It is behind.
	StateSyncing State = iota
	// StateLive means that changes are delivered as they happen.
	StateLive
	// StateStale means that the stream is lost and being reopened. Changes may have happened that
	// were not delivered yet.
	StateStale
)

// String returns "syncing", "live" or "stale".
func (s State) String() string {
	switch s {
	case StateSyncing:
		return "syncing"
	case StateLive:
		return "live"
	case StateStale:
		return "stale"
	}
	return "State(" + strconv.Itoa(int(s)) + ")"
}

// Status is the status of a watch.
type Status struct {
	State State
	// Since is when the state began. A stale watch is stale since the last message of etcd.
	Since time.Time
	// Heard is a time up to which no change is missing: every change made by then, as far as the
	// member that serves the watch knew, was delivered and handled. It is the time, by this
	// process's clocks, at which the progress report that proves this was requested, or the watch
	// itself if it had missed nothing when it was opened. It advances with each report: within 36 s
	// on a stream that answers, and with Subscription.Refresh. Events do not advance it. It is
	// zero until the watch is live for the first time.
	Heard time.Time
	// Revision is the revision up to which every change was delivered and handled. It is 0 at
	// first.
	Revision int64
	// Reopened counts how often the server-side watch was reopened or the watch had to catch up.
	// While it stays the same, the watch is continuous.
	Reopened uint64
	// Err is the reason why a stale watch is not open, otherwise nil. If there is no connection, it
	// says why, as far as that is known.
	Err error
}

// Stats are the counters of a Watcher and of the watchers that share its streams.
type Stats struct {
	Active        int `json:"active"`        // running watches and subscriptions
	ServerWatches int `json:"serverWatches"` // server-side watches that they share, without replays
	Streams       int `json:"streams"`       // open gRPC streams

	Batches    uint64 `json:"batches"`    // batches delivered
	Events     uint64 `json:"events"`     // events delivered
	Folded     uint64 `json:"folded"`     // changes left out by WithCoalescing
	Reconnects uint64 `json:"reconnects"` // failures after which a server-side watch was reopened
	Resyncs    uint64 `json:"resyncs"`    // lists that brought a state watch up to date
	Replays    uint64 `json:"replays"`    // replays of history for a single watch
	Overflows  uint64 `json:"overflows"`  // watches that lagged too far and lost their place
}

// Active returns the number of running watches and subscriptions.
func (w *Watcher) Active() int {
	w.core.mu.Lock()
	defer w.core.mu.Unlock()
	return len(w.core.subscribers)
}

// Stats returns the counters. It sends nothing.
func (w *Watcher) Stats() Stats {
	c := &w.core.counters
	out := Stats{
		Active: w.Active(), Streams: w.core.pool.Size(),
		Batches: c.batches.Load(), Events: c.events.Load(), Folded: c.folded.Load(), Reconnects: c.reconnects.Load(),
		Resyncs: c.resyncs.Load(), Replays: c.replays.Load(), Overflows: c.overflows.Load(),
	}
	w.core.mu.Lock()
	out.ServerWatches = len(w.core.broadcasters)
	w.core.mu.Unlock()
	return out
}

// ServerWatch is a server-side watch and its status.
type ServerWatch struct {
	Selector string // of the watch that opened it
	Watches  int    // number of watches that share it
	Status
}

// ServerWatches returns the server-side watches, sorted by selector. It sends nothing.
func (w *Watcher) ServerWatches() []ServerWatch {
	var out []ServerWatch
	var broadcasters []*broadcaster
	w.core.mu.Lock()
	for _, b := range w.core.broadcasters {
		broadcasters = append(broadcasters, b)
		out = append(out, ServerWatch{Selector: b.selector, Watches: b.refs})
	}
	w.core.mu.Unlock()
	for i, b := range broadcasters {
		out[i].Status = b.status()
	}
	slices.SortFunc(out, func(a, b ServerWatch) int { return cmp.Compare(a.Selector, b.Selector) })
	return out
}
