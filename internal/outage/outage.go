// Package outage decides which outages are worth a log record.
package outage

import "time"

// MinInterval is the least time between two records that say that an outage of the same thing begins.
const MinInterval = time.Minute

// A Log decides which outages of one thing are logged: each with one record when it begins and one when it ends. An
// outage that begins within [MinInterval] of an earlier record is logged once the interval is over, if it lasts. The zero
// Log is ready to use, by one goroutine at a time.
type Log struct {
	open   bool      // the beginning was logged, the end was not
	logged time.Time // when the beginning was logged last
	since  time.Time // when the current outage began; zero without one
}

// Open reports whether the beginning of an outage was logged, and its end was not.
func (l *Log) Open() bool { return l.open }

// Update takes the state at now and reports which record is to be written, and for how long the outage has lasted.
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
