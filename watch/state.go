package watch

import (
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
	// Heard is a time of which nothing is missing: every change made by then, as far as the member
	// that serves the watch knew, was delivered and handled. It is the time, by this process's
	// clocks, at which the progress report that proves this was requested, or the watch itself if
	// it had missed nothing when it was opened. It advances with each report: within 36 s on a
	// stream that answers, and with [Subscription.Refresh]. Events do not advance it. It is zero
	// until the watch is live for the first time.
	Heard time.Time
	// Revision is the revision up to which every change was delivered and handled. It is 0 at
	// first.
	Revision int64
	// Reopened counts how often the server-side watch was reopened or the watch had to catch up.
	// While it stays the same, the watch is continuous.
	Reopened uint64
	// Err is the reason why a stale watch is not open, otherwise nil.
	Err error
}
