package discovery

import (
	"slices"
	"strings"
	"time"
)

// ejectedMost is up to how many times the first duration an instance is ejected that fails again and again.
const ejectedMost = 10

// eject leaves an instance alone for a while, if not half of them are ejected already.
func (p *Picker) eject(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, found := slices.BinarySearchFunc(p.all, id, func(n *node, id string) int { return strings.Compare(n.instance.ID, id) })
	if !found {
		return
	}
	n, now := p.all[at], time.Now()
	if n.until.After(now) || n.inARow.Load() < p.fails {
		return
	}
	ejected := 1
	for _, other := range p.all {
		if other.until.After(now) {
			ejected++
		}
	}
	if 2*ejected > len(p.all) {
		return // its failures stay counted: the next one asks again
	}
	n.inARow.Store(0)
	if now.Sub(n.until) > ejectedMost*p.base { // it was well for long
		n.times = 0
	}
	n.times = min(n.times+1, ejectedMost)
	n.until = now.Add(p.base * time.Duration(n.times))
	p.now.Store(p.build(p.v.now.Load(), now))
}

// sparing leaves out the instances that are ejected, and says when the first of them comes back. Never more than half of
// them are left out: when there are fewer of them than there were, those come back whose time is next.
func sparing(nodes []*node, now time.Time) (left []*node, next time.Time) {
	var out []*node
	for _, n := range nodes {
		if n.until.After(now) {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return nodes, next
	}
	slices.SortFunc(out, func(a, b *node) int { return b.until.Compare(a.until) })
	out = out[:min(len(out), len(nodes)/2)]
	for _, n := range nodes {
		if !slices.Contains(out, n) {
			left = append(left, n)
		}
	}
	if len(out) > 0 {
		next = out[len(out)-1].until
	}
	return left, next
}
