package lease

import "time"

// minMargin is the least that is taken off a TTL.
const minMargin = 200 * time.Millisecond

// margin is how long before the earliest expiry trust ends: a tenth of the TTL for clocks of different speeds, and no
// less than what a busy process needs to act on a timer.
func margin(ttl time.Duration) time.Duration { return max(ttl/10, minMargin) }

// deadline is when the trust in a lease ends whose renewal, sent at the given time, was answered with ttl.
type deadline struct {
	mono time.Time // compared by the monotonic clock
	wall time.Time // the same by the wall clock: the monotonic one stands still while a machine is suspended
}

func newDeadline(sentAt time.Time, ttl time.Duration) deadline {
	at := sentAt.Add(ttl - margin(ttl))
	return deadline{mono: at, wall: at.Round(0)}
}

// passed compares both clocks.
func (d deadline) passed(now time.Time) bool {
	return !now.Before(d.mono) || !now.Round(0).Before(d.wall)
}

// before reports whether d is the earlier one.
func (d deadline) before(other deadline) bool { return d.mono.Before(other.mono) }
