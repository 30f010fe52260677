package discovery

import "time"

// grace tells a sudden loss of most instances from the ordinary coming and going. Instances seldom die together; leases do,
// when etcd was too busy to renew them, and keys do, when a cluster has lost its data. Then the instances are well, and
// register anew as soon as they can.
type grace struct {
	period time.Duration // 0 holds nothing back
	were   []sample      // how many there were since one period ago, where there were fewer later; the latest last
}

// sample is how many instances there were from some time on.
type sample struct {
	at time.Time
	n  int
}

// smallest is how many instances there must have been for changes as they happen to be suspicious: that one of two is gone,
// and then the other, is no surprise.
const smallest = 3

// loss is what was lost in one batch without having said that it would go.
type loss struct {
	ids          []string
	left         int  // how many instances are there after it
	bulk         bool // the watch was interrupted, and tells the difference
	otherHistory bool // of a cluster that was wiped or restored
}

// holds reports whether a loss is to be held back: within one period, at most half of the instances may go. Those that are
// replaced by others meanwhile are not missed.
func (g *grace) holds(l loss, now time.Time) bool {
	if g.period == 0 {
		return false
	}
	before := max(l.left+len(l.ids), g.most(now))
	return l.otherHistory || 2*l.left < before && (l.bulk || before >= smallest)
}

// most is how many instances there were at the most within the last period.
func (g *grace) most(now time.Time) int {
	for len(g.were) > 1 && now.Sub(g.were[1].at) >= g.period {
		g.were = g.were[1:]
	}
	if len(g.were) == 0 {
		return 0
	}
	return g.were[0].n
}

// are notes how many instances there are.
func (g *grace) are(n int, now time.Time) {
	for len(g.were) > 0 && g.were[len(g.were)-1].n <= n {
		g.were = g.were[:len(g.were)-1]
	}
	g.most(now)
	g.were = append(g.were, sample{now, n})
}

// left notes that instances have gone that had said so: nobody misses them.
func (g *grace) left(n int) {
	for i := range g.were {
		g.were[i].n -= n
	}
}
