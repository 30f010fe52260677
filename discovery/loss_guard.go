package discovery

import "time"

// lossGuard tells a sudden loss of most instances from the ordinary coming and going. Instances seldom die together; leases do,
// when etcd was too busy to renew them, and keys do, when a cluster has lost its data. Then the instances are well, and
// register anew as soon as they can.
type lossGuard struct {
	period  time.Duration // 0 holds nothing back
	history []sample      // how many there were since one period ago, where there were fewer later; the latest last
}

// sample is how many instances there were from some time on.
type sample struct {
	at time.Time
	n  int
}

// minSuspicious is how many instances there must have been for changes as they happen to be suspicious: that one of two is gone,
// and then the other, is no surprise.
const minSuspicious = 3

// loss is what was lost in one batch without having said that it would go.
type loss struct {
	ids          []string
	left         int  // how many instances are there after it
	bulk         bool // the watch was interrupted, and tells the difference
	otherHistory bool // of a cluster that was wiped or restored
}

// shouldHold reports whether a loss is to be held back: within one period, at most half of the instances may go. Those that are
// replaced by others meanwhile are not missed.
func (g *lossGuard) shouldHold(l loss, now time.Time) bool {
	if g.period == 0 {
		return false
	}
	before := max(l.left+len(l.ids), g.peak(now))
	return l.otherHistory || 2*l.left < before && (l.bulk || before >= minSuspicious)
}

// peak is how many instances there were at the most within the last period.
func (g *lossGuard) peak(now time.Time) int {
	for len(g.history) > 1 && now.Sub(g.history[1].at) >= g.period {
		g.history = g.history[1:]
	}
	if len(g.history) == 0 {
		return 0
	}
	return g.history[0].n
}

// record notes how many instances there are.
func (g *lossGuard) record(n int, now time.Time) {
	for len(g.history) > 0 && g.history[len(g.history)-1].n <= n {
		g.history = g.history[:len(g.history)-1]
	}
	g.peak(now)
	g.history = append(g.history, sample{now, n})
}

// forget notes that instances have gone that had said so: nobody misses them.
func (g *lossGuard) forget(n int) {
	for i := range g.history {
		g.history[i].n -= n
	}
}
