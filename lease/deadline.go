package lease

import "time"

// minMargin is the smallest margin.
const minMargin = 200 * time.Millisecond

// margin returns how long before the earliest possible expiry a session ends. A tenth of the TTL
// allows for clocks of different speeds; the minimum gives a busy process time to act on a timer.
func margin(ttl time.Duration) time.Duration { return max(ttl/10, minMargin) }

// deadline is the time at which a session ends unless its lease is renewed. It counts from before
// the request was sent.
type deadline struct {
	mono time.Time // compared by the monotonic clock
	// wall is compared by the wall clock, because the monotonic clock may stop while a machine is
	// suspended.
	wall time.Time
}

func newDeadline(sentAt time.Time, ttl time.Duration) deadline {
	at := sentAt.Add(ttl - margin(ttl))
	return deadline{mono: at, wall: at.Round(0)}
}

// passed reports whether either clock has reached the deadline.
func (d deadline) passed(now time.Time) bool {
	return !now.Before(d.mono) || !now.Round(0).Before(d.wall)
}

// before reports whether d is earlier than other.
func (d deadline) before(other deadline) bool { return d.mono.Before(other.mono) }
