package watch

import (
	"strconv"
	"time"
)

// State says how a watch stands.
type State int

const (
	// StateSyncing means that the watch is being opened, lists, or reads history; what it delivers is behind.
	StateSyncing State = iota
	// StateLive means that changes are delivered as they happen.
	StateLive
	// StateStale means that the stream is lost and being opened again: changes may have happened that are not delivered yet.
	StateStale
)

// String is "syncing", "live" or "stale".
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

// Status is how a watch stands.
type Status struct {
	State State
	// Since is when the state began. A Stale watch is stale since etcd was last heard of.
	Since time.Time
	// Heard is as of when nothing is missing: everything that had happened by then was delivered and handled, as far as the
	// member knew that serves the watch. It is the time of the request for the progress report that said so, by this
	// process's clocks, and moves with each such report: within 36 s on a stream that answers, and with
	// [Subscription.Refresh]. Events do not move it. Zero before the watch is live for the first time.
	Heard time.Time
	// Revision is the one up to which everything was delivered, and its handler has returned; 0 at first.
	Revision int64
	// Reopened counts how often the server-side watch was opened again: while it stays the same, the watch is continuous.
	Reopened uint64
	// Err is why a Stale watch is not open, nil otherwise.
	Err error
}
