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
	at, found := slices.BinarySearchFunc(p.known, id, func(c *candidate, id string) int { return strings.Compare(c.instance.ID, id) })
	if !found {
		return
	}
	c, now := p.known[at], time.Now()
	if c.ejectedUntil.After(now) || c.consecutiveFailures.Load() < p.maxFailures {
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
	c.consecutiveFailures.Store(0)
	if now.Sub(c.ejectedUntil) > maxEjections*p.ejection { // healthy for a long time
		c.ejections = 0
	}
	c.ejections = min(c.ejections+1, maxEjections)
	c.ejectedUntil = now.Add(p.ejection * time.Duration(c.ejections))
	p.current.Store(p.build(p.v.current.Load(), now))
}

// withoutEjected returns the candidates that are not ejected, and when the next ejection ends. At
// most half of the candidates are left out, longest remaining ejections first.
func withoutEjected(candidates []*candidate, now time.Time) (left []*candidate, next time.Time) {
	var ejected []*candidate
	for _, c := range candidates {
		if c.ejectedUntil.After(now) {
			ejected = append(ejected, c)
		}
	}
	if len(ejected) == 0 {
		return candidates, next
	}
	slices.SortFunc(ejected, func(a, b *candidate) int { return b.ejectedUntil.Compare(a.ejectedUntil) })
	ejected = ejected[:min(len(ejected), len(candidates)/2)]
	for _, c := range candidates {
		if !slices.Contains(ejected, c) {
			left = append(left, c)
		}
	}
	if len(ejected) > 0 {
		next = ejected[len(ejected)-1].ejectedUntil
	}
	return left, next
}
