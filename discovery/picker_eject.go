package discovery

import (
	"slices"
	"strings"
	"time"
)

// maxEjections limits the growth of an instance's ejection time.
const maxEjections = 10

// eject ejects an instance for a while, unless half of the instances are ejected already.
func (p *Picker) eject(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, found := slices.BinarySearchFunc(p.known, id, func(n *candidate, id string) int { return strings.Compare(n.instance.ID, id) })
	if !found {
		return
	}
	n, now := p.known[at], time.Now()
	if n.ejectedUntil.After(now) || n.consecutiveFailures.Load() < p.maxFailures {
		return
	}
	ejected := 1
	for _, other := range p.known {
		if other.ejectedUntil.After(now) {
			ejected++
		}
	}
	if 2*ejected > len(p.known) {
		return // the failures stay counted, so the next one tries again
	}
	n.consecutiveFailures.Store(0)
	if now.Sub(n.ejectedUntil) > maxEjections*p.ejection { // healthy for a long time
		n.ejections = 0
	}
	n.ejections = min(n.ejections+1, maxEjections)
	n.ejectedUntil = now.Add(p.ejection * time.Duration(n.ejections))
	p.current.Store(p.build(p.v.current.Load(), now))
}

// withoutEjected returns the candidates that are not ejected, and when the next ejection ends. At
// most half of the candidates are left out, longest remaining ejections first.
func withoutEjected(nodes []*candidate, now time.Time) (left []*candidate, next time.Time) {
	var out []*candidate
	for _, n := range nodes {
		if n.ejectedUntil.After(now) {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return nodes, next
	}
	slices.SortFunc(out, func(a, b *candidate) int { return b.ejectedUntil.Compare(a.ejectedUntil) })
	out = out[:min(len(out), len(nodes)/2)]
	for _, n := range nodes {
		if !slices.Contains(out, n) {
			left = append(left, n)
		}
	}
	if len(out) > 0 {
		next = out[len(out)-1].ejectedUntil
	}
	return left, next
}
