package discovery

import "time"

// lossGuard distinguishes a sudden loss of most instances from normal churn. Instances rarely fail
// together. Leases do, if etcd was too busy to renew them, and keys do, if a cluster lost its data.
// The instances are healthy then and register again as soon as they can.
type lossGuard struct {
	period  time.Duration // 0 disables the guard
	history []sample      // numbers of instances within one period, oldest first, decreasing
}

// sample is the number of instances from a time on.
type sample struct {
	at time.Time
	n  int
}

// minSuspicious is the number of instances below which single deletions are never suspicious: the
// loss of one of two instances, and then of the other, is normal.
const minSuspicious = 3

// loss describes the instances lost in one batch without having drained.
type loss struct {
	ids          []string
	left         int  // remaining instances
	bulk         bool // the watch was interrupted and reports the difference
	otherHistory bool // the cluster was wiped or restored
}

// shouldHold reports whether a loss is to be held back: at most half of the instances may go within
// one period. Instances that were replaced by others do not count.
func (g *lossGuard) shouldHold(l loss, now time.Time) bool {
	if g.period == 0 {
		return false
	}
	before := max(l.left+len(l.ids), g.peak(now))
	return l.otherHistory || 2*l.left < before && (l.bulk || before >= minSuspicious)
}

// peak returns the highest number of instances within the last period.
func (g *lossGuard) peak(now time.Time) int {
	for len(g.history) > 1 && now.Sub(g.history[1].at) >= g.period {
		g.history = g.history[1:]
	}
	if len(g.history) == 0 {
		return 0
	}
	return g.history[0].n
}

// record records the number of instances.
func (g *lossGuard) record(n int, now time.Time) {
	for len(g.history) > 0 && g.history[len(g.history)-1].n <= n {
		g.history = g.history[:len(g.history)-1]
	}
	g.peak(now)
	g.history = append(g.history, sample{now, n})
}

// forget subtracts n instances that left after draining.
func (g *lossGuard) forget(n int) {
	for i := range g.history {
		g.history[i].n -= n
	}
}
