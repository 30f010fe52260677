// Package outage decides which outages are logged.
package outage

import "time"

// MinInterval is the minimum time between two records that an outage of the same thing begins.
const MinInterval = time.Minute

// A Log decides which outages of one thing are logged. A logged outage has two records, one when it
// begins and one when it ends. If an outage begins less than [MinInterval] after the last record of
// a beginning, it is logged once the interval is over, if it lasts that long. The zero Log is ready
// to use. It is not safe for concurrent use.
type Log struct {
	open   bool      // the beginning was logged, the end was not
	logged time.Time // when a beginning was logged last
	since  time.Time // when the current outage began; zero without one
}

// Open reports whether the beginning of an outage was logged and its end was not.
func (l *Log) Open() bool { return l.open }

// Update records whether the thing is down at now. It returns which record to write, and how long
// the outage has lasted.
func (l *Log) Update(down bool, now time.Time) (begins, ends bool, lasted time.Duration) {
	if down && l.since.IsZero() {
		l.since = now
	}
	if !l.since.IsZero() {
		lasted = now.Sub(l.since)
	}
	switch {
	case down && !l.open && (l.logged.IsZero() || now.Sub(l.logged) >= MinInterval):
		l.open, l.logged = true, now
		begins = true
	case !down:
		ends = l.open
		l.open, l.since = false, time.Time{}
	}
	return begins, ends, lasted
}
